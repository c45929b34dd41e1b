"""docker-compose.yml's simulation, run as the file says: three clients train a short job to its end, on a good line and
then with kills and delays. Usage: simulation_test.py SOURCE BUILD; exit 77: this machine cannot run it, and why."""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

SOURCE, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
WORK = os.path.join(BUILD, "simulation")
CLIENTS = 3
# The demo job made short: what is tested is the daemons, not the model.
JOB = ("job.rounds={rounds} job.evaluate_every={rounds} training.local_steps={steps} training.batch_size=32 "
       "evaluation.limit=50 selection.round_deadline=60s")


def reason_to_skip():
    if os.geteuid() != 0:
        return "needs root: namespaces, bridges and chroot are made"
    for tool, package in (("buildah", "buildah"), ("debootstrap", "debootstrap"), ("ip", "iproute2"), ("tc", "iproute2"),
                          ("nsenter", "util-linux"), ("dpkg-query", "dpkg")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: install {package}"
    try:
        import yaml  # pylint: disable=import-outside-toplevel,unused-import
    except ImportError:
        return "Python's yaml is missing: install python3-yaml"
    with open("/etc/os-release", encoding="utf-8") as file:
        if "bookworm" not in file.read():
            return "the programs built here would not run in the image's Debian 12"
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        if all(line.split()[4] != "/" for line in file):
            return "this is a chroot whose root is no mount, and buildah remounts it: enter it from a bind mount of itself"
    for command in (["ip", "netns", "add", "trib-probe"], ["ip", "netns", "del", "trib-probe"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"no network namespace can be made here: {done.stderr.strip()}"
    return None


REASON = reason_to_skip()
if REASON:
    print("skipped:", REASON)
    sys.exit(77)

import compose  # noqa: E402  pylint: disable=wrong-import-position
from build_image import build  # noqa: E402  pylint: disable=wrong-import-position
from engine import Engine, Image, run  # noqa: E402  pylint: disable=wrong-import-position


def setUpModule():
    with open("/proc/mounts", encoding="utf-8") as file:  # of a run that was killed
        left = [line.split()[1] for line in file if line.split()[1].startswith(WORK + "/")]
    for path in sorted(left, reverse=True):
        run("umount", "-l", path)
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    build(SOURCE, os.path.join(BUILD, "bin"), WORK)
    Federation.images = {"tributary:latest": Image("localhost/tributary:latest"),
                         "tributary-chaos:latest": Image("localhost/tributary-chaos:latest")}


def tearDownModule():
    for image in Federation.images.values():
        image.close()


class Federation(unittest.TestCase):
    images = {}
    rounds, steps = 5, 2

    def start(self, profiles, **variables):
        variables = {"TRIBUTARY_JOB_SET": JOB.format(rounds=self.rounds, steps=self.steps), **variables}
        project = compose.load(os.path.join(SOURCE, "docker-compose.yml"), variables, profiles)
        self.directory = os.path.join(WORK, self._testMethodName)
        self.engine = Engine(project, self.images, self.directory, {"client": CLIENTS})
        self.addCleanup(self.engine.close)
        self.engine.up()
        self.aggregator = self.engine.containers["aggregator"][0]
        self.clients = self.engine.containers["client"]
        self.job = self.engine.containers["job"][0]

    def log_of(self, container):
        with open(container.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def volume(self, name):
        return os.path.join(self.directory, "volumes", name)

    def site(self, client):
        return self.volume(f"{client.name}-var-lib-tributary") + "/site"

    def wait_for_the_end(self, timeout):
        def ended():
            return self.job.exit_code is not None
        self.engine.wait("the job's end", ended, timeout)
        self.assertEqual(self.job.exit_code, 0, self.log_of(self.job) + self.engine.describe())

    def check_charges(self, away=0):
        """Every site paid for every round but those that it was `away` for, and for none twice; its ledger verifies."""
        for client in self.clients:
            verified = run(os.path.join(BUILD, "bin", "trib"), "privacy", "verify", self.site(client), check=False)
            self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
            with open(self.site(client) + "/ledger.jsonl", encoding="utf-8") as file:
                entries = [json.loads(line) for line in file]
            rounds = sorted(entry["round"] for entry in entries if "round" in entry and entry.get("steps", 0) > 0)
            self.assertEqual(rounds, sorted(set(rounds)), client.name + " paid twice")
            self.assertLessEqual(set(rounds), set(range(1, self.rounds + 1)), client.name)
            self.assertGreaterEqual(len(rounds), self.rounds - away, client.name)


class Simulation(Federation):
    def test_three_clients_join_by_invite_and_train_a_job_as_the_file_says(self):
        self.start(["sim"])
        self.engine.wait("all clients healthy", lambda: all(c.health == "healthy" for c in self.clients), 300)
        self.check_hardening()
        self.check_identities()
        self.check_network()
        self.check_page()
        self.wait_for_the_end(400)
        self.check_charges()
        self.assertTrue(all(container.starts == 1 for container in self.engine.everybody()), self.engine.describe())
        self.check_later_clients_are_told()
        self.assertEqual(self.engine.stop(), [], "SIGTERM ends every daemon within its grace period")
        for container in [self.aggregator, *self.clients]:
            self.assertEqual(container.exit_code, 0, container.name + self.log_of(container)[-2000:])

    def check_hardening(self):
        self.assertTrue(self.engine.limits_enacted or not os.path.isdir("/sys/fs/cgroup/memory"))
        for container in [self.aggregator, *self.clients]:
            with open(f"/proc/{container.pid}/status", encoding="ascii") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            self.assertEqual(status["Uid"].split(), ["10001"] * 4)
            self.assertEqual(status["Gid"].split(), ["10001"] * 4)
            self.assertEqual(int(status["CapBnd"], 16), 0)
            self.assertEqual(int(status["CapEff"], 16), 0)
            self.assertEqual(status["NoNewPrivs"], "1")
            for path, writable in (("/usr/local/bin/x", False), ("/etc/x", False), ("/srv/tributary/base/x", False),
                                   ("/tmp/x", True), ("/var/lib/tributary/x", True)):
                done = container.execute("touch", path)
                self.assertEqual(done.returncode == 0, writable, f"{container.name} {path}: {done.stderr}")
            for entry in container.environment:
                self.assertNotRegex(entry + container.environment[entry], "(?i)secret|trib1|password")
        # One process namespace each: a client sees no process but its own.
        seen = self.clients[0].execute("bash", "-c", "cat /proc/[0-9]*/comm").stdout.split()
        self.assertEqual(seen.count("trib-client"), 1, seen)
        self.assertNotIn("trib-server", seen)

    def check_identities(self):
        keys = set()
        for client in self.clients:
            self.assertEqual(os.stat(self.site(client) + "/key.pem").st_mode & 0o777, 0o600)
            with open(self.site(client) + "/key.pem", encoding="ascii") as file:
                keys.add(file.read())
            # Only its own volume, the spool, and the base model: no other site's, and not the federation's CA.
            self.assertNotEqual(client.execute("ls", "/var/lib/tributary/federation").returncode, 0)
        self.assertEqual(len(keys), CLIENTS)
        records = [run("cat", self.volume(f"{c.name}-var-lib-tributary") + "/records.csv").stdout for c in self.clients]
        self.assertEqual(len(set(records)), CLIENTS)
        left = subprocess.run(["grep", "-rl", "trib1", self.volume("spool")], capture_output=True, text=True, check=False)
        self.assertEqual(left.stdout, "", "tokens outlived their use")
        for client in self.clients:
            self.assertFalse(os.path.exists(self.volume(f"{client.name}-var-lib-tributary") + "/invite"))

    def check_network(self):
        for client in self.clients:
            listening = run("ip", "netns", "exec", client.namespace, "ss", "-Hltnu").stdout
            self.assertEqual(listening, "", "a client listens, so that other clients could reach it")
            self.assertEqual(run("ip", "-n", client.namespace, "route", "show", "default").stdout, "")
        for name in ("invite", "job"):
            container = self.engine.containers[name][0]
            self.assertEqual(container.addresses, {}, f"{name} needs the aggregator's socket, and no network")

    def check_page(self):
        """What Prometheus and a browser do: TLS by the federation's CA, a viewer's token for what is not the page."""
        federation = "/var/lib/tributary/federation"
        made = self.aggregator.execute("trib", "token", "create", "test", "--json", "--server", federation)
        self.assertEqual(made.returncode, 0, made.stderr)
        token = json.loads(made.stdout)["token"]

        def get(path, *options):
            return run("ip", "netns", "exec", self.aggregator.namespace, "curl", "-sS", "--cacert",
                       self.volume("federation") + "/federation/ca/ca.pem", "--resolve", "aggregator:7480:127.0.0.1",
                       *options, "https://aggregator:7480" + path).stdout

        self.assertIn("<title>", get("/"))
        self.assertIn("error", get("/metrics"))
        metrics = get("/metrics", "-H", "Authorization: Bearer " + token)
        self.assertIn("tributary_sites{", metrics)
        self.assertIn('tributary_certificate_days_left{role="site",name="', metrics)

    def check_later_clients_are_told(self):
        late = compose.load(os.path.join(SOURCE, "docker-compose.yml"), {}, ["sim"])["services"]["invite"]
        self.assertEqual(late["restart"], "on-failure:5")
        with open(self.volume("spool") + "/requests/site-late", "w", encoding="ascii"):
            pass
        invite = self.engine.containers["invite"][0]
        self.engine.wait("the invite service's end", lambda: not invite.is_running(), 120)
        invite.start()
        invite.process.wait(120)
        with open(self.volume("spool") + "/refused/site-late", encoding="utf-8") as file:
            self.assertIn("--scale client=N", file.read())
        invite.starts = 1


class Chaos(Federation):
    rounds, steps = 12, 16  # as long as it takes to kill both while it runs: seconds a round, on any line

    def test_a_job_ends_and_nobody_pays_twice_when_daemons_are_killed_on_a_bad_line(self):
        self.start(["sim", "chaos"], TRIBUTARY_CHAOS_SECONDS="8", TRIBUTARY_CHAOS_KILLS="1",
                   TRIBUTARY_CHAOS_DELAY_MS="40", TRIBUTARY_CHAOS_JITTER_MS="20")
        ledgers = [self.volume(f"{client.name}-var-lib-tributary") + "/site/ledger.jsonl" for client in self.clients]

        def charged(number):
            def by_all():
                self.assertIsNone(self.job.exit_code, "the job is over before its daemons are killed")
                return all(os.path.exists(path) and
                           int(run("grep", "-c", '"round":', path, check=False).stdout.strip() or 0) >= number
                           for path in ledgers)
            return by_all

        self.engine.wait("the first round's charges", charged(1), 300)
        def line():
            return run("ip", "netns", "exec", self.aggregator.namespace, "tc", "qdisc", "show", "dev", "eth0", check=False).stdout
        # A kill of the aggregator takes the delay with it, until chaos-delay has found the new one.
        self.engine.wait("the delay on the aggregator's line", lambda: "netem" in line() or "tbf" in line(), 120)
        print("line of the aggregator:", line().splitlines()[0])
        before = self.clients[0].starts, self.aggregator.starts
        self.clients[0].kill(signal.SIGKILL)
        self.engine.wait("the killed client's return", lambda: self.clients[0].starts > before[0], 60)
        self.engine.wait("the second round's charges", charged(2), 300)
        self.aggregator.kill(signal.SIGKILL)
        self.engine.wait("the killed aggregator's return", lambda: self.aggregator.starts > before[1], 60)
        self.wait_for_the_end(600)
        self.check_charges(away=4)  # the rounds that opened while it was being started again
        kills = self.log_of(self.engine.containers["chaos-kill"][0]).count('"message":"killed ')
        print("killed by the test: 2, by chaos-kill:", kills, "; starts:",
              {container.name: container.starts for container in [self.aggregator, *self.clients]})
        names = sorted(glob.glob(os.path.join(self.directory, "volumes", "client-*", "name")))
        self.assertEqual(len({run("cat", name).stdout for name in names}), CLIENTS, "a restart made a new site")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
