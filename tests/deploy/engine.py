"""Runs the services of a compose file without a container engine: each container is a process in its own mount, UTS,
IPC, network and (unless the file says `pid: host`) process namespace, on the image's file system, in a network of veth
pairs and bridges in a namespace of their own. Needs root, iproute2, util-linux, an overlay file system."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CGROUPS = "/sys/fs/cgroup"


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


class Image:
    """An image's root directory and what its configuration says."""

    def __init__(self, name):
        self.name = name
        inspected = json.loads(run("buildah", "inspect", "--type", "image", name).stdout)
        config = inspected["Docker"]["config"]
        self.entrypoint, self.command = config.get("Entrypoint") or [], config.get("Cmd") or []
        self.environment = dict(item.split("=", 1) for item in config.get("Env") or [])
        self.directory = config.get("WorkingDir") or "/"
        self.labels, self.user, self.health = config.get("Labels") or {}, config.get("User"), config.get("Healthcheck")
        self.stop_signal, self.volumes = config.get("StopSignal"), list(config.get("Volumes") or {})
        self.bytes = inspected["Docker"].get("size") or 0
        self.handle = run("buildah", "from", "--pull-never", name).stdout.strip()
        self.rootfs = run("buildah", "mount", self.handle).stdout.strip()

    def close(self):
        run("buildah", "umount", self.handle, check=False)
        run("buildah", "rm", self.handle, check=False)


class Container:
    """One replica of a service: its identity stays over restarts, its namespaces do not."""

    def __init__(self, engine, service, number):
        self.engine, self.service, self.number = engine, service, number
        self.name = f"{service['name']}-{number}"
        self.hostname = "".join(random.choice("0123456789abcdef") for _ in range(12))
        self.scratch = os.path.join(engine.directory, "containers", self.name)
        self.log = os.path.join(engine.directory, "logs", self.name + ".log")
        self.image = engine.images[service["image"]]
        self.process, self.pid, self.exit_code, self.starts = None, None, None, 0
        self.health, self.failures, self.last_health = "starting", 0, ""
        self.started_at, self.stopping, self.restart_at = 0.0, False, None
        self.links, self.namespace = [], None
        self.addresses = {network: engine.next_address(network) for network in service["networks"]}

    # --- network ---

    def _make_network(self):
        mode = self.service["network_mode"] or ""
        if mode.startswith("service:"):
            self.namespace = self.engine.containers[mode.split(":", 1)[1]][0].namespace
            return
        self.namespace = f"{self.engine.prefix}-{self.name}-{self.starts}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.links = []
        for index, (network, address) in enumerate(self.addresses.items()):
            outer = f"v{os.getpid() % 10000}{self.engine.next_link()}"
            run("ip", "-n", self.engine.switch, "link", "add", outer, "type", "veth", "peer", "name", f"eth{index}",
                "netns", self.namespace)
            run("ip", "-n", self.engine.switch, "link", "set", outer, "master", self.engine.bridges[network], "up")
            run("ip", "-n", self.namespace, "addr", "add", f"{address}/24", "dev", f"eth{index}")
            run("ip", "-n", self.namespace, "link", "set", f"eth{index}", "up")
            self.links.append(outer)

    def _drop_network(self):
        if (self.service["network_mode"] or "").startswith("service:") or self.namespace is None:
            return
        for link in self.links:
            run("ip", "-n", self.engine.switch, "link", "del", link, check=False)
        run("ip", "netns", "del", self.namespace, check=False)

    # --- life ---

    def start(self):
        self.starts += 1
        self._make_network()
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.makedirs(self.scratch)
        # The engine's name server: all replicas of all services.
        with open(f"{self.scratch}/hosts", "w", encoding="utf-8") as hosts:
            hosts.write("127.0.0.1 localhost\n")
            for network in self.addresses:
                for other in self.engine.everybody():
                    if network in other.addresses:
                        hosts.write(f"{other.addresses[network]} {other.service['name']} {other.name} {other.hostname}\n")
        for file, text in (("hostname", self.hostname + "\n"), ("resolv.conf", "")):
            with open(f"{self.scratch}/{file}", "w", encoding="utf-8") as out:
                out.write(text)
        said = self.service
        spec = {key: said[key] for key in ("user", "group", "read_only", "drop_all", "cap_add", "no_new_privileges",
                                           "tmpfs", "host_pid")}
        spec.update(
            scratch=self.scratch, rootfs=self.image.rootfs, hostname=self.hostname, directory=self.image.directory,
            argv=self.image.entrypoint + (said["command"] or self.image.command),
            environment={"HOSTNAME": self.hostname, **self.image.environment, **said["environment"]},
            mounts=[self.engine.resolve_mount(self, entry) for entry in said["mounts"]] +
                   [self.engine.resolve_secret(self, name) for name in said["secrets"]])
        self.environment = spec["environment"]
        with open(f"{self.scratch}/spec.json", "w", encoding="utf-8") as file:
            json.dump(spec, file)
        groups = self.engine.control_groups(self)

        def in_child():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # never outlives the runner
            for group in groups:
                with open(group, "w", encoding="ascii") as file:
                    file.write(str(os.getpid()))

        namespaces = ["--mount", "--uts", "--ipc", "--fork", "--kill-child=KILL"] + ([] if said["host_pid"] else ["--pid"])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
                ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", *namespaces, sys.executable,
                 os.path.join(HERE, "container.py"), f"{self.scratch}/spec.json"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=in_child)
        self.pid, self.exit_code, self.restart_at = None, None, None
        self.health, self.failures, self.started_at = "starting", 0, time.monotonic()
        deadline = time.monotonic() + 10
        while self.pid is None and time.monotonic() < deadline and self.process.poll() is None:
            children = run("cat", f"/proc/{self.process.pid}/task/{self.process.pid}/children", check=False).stdout.split()
            if children:
                self.pid = int(children[0])
            else:
                time.sleep(0.01)
        if said["health"]:
            threading.Thread(target=self._watch_health, args=(self.starts,), daemon=True).start()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self, number=signal.SIGKILL):
        """From outside, as `docker kill` and the machine's memory killer do it."""
        os.kill(self.pid, number)

    def reap(self):
        """Called again and again: notices the end, and starts anew what the file says is to be."""
        if self.process is not None and self.exit_code is None and self.process.poll() is not None:
            code = self.process.returncode
            self.exit_code = 128 - code if code < 0 else code
            self._drop_network()
            policy = self.service["restart"]
            again = policy in ("always", "unless-stopped") or (
                policy.startswith("on-failure") and self.exit_code != 0 and
                self.starts <= int(policy.partition(":")[2] or 1 << 30))
            if again and not self.stopping:
                self.restart_at = time.monotonic() + 0.5
        if self.restart_at is not None and time.monotonic() >= self.restart_at and not self.stopping:
            self.start()

    def stop(self):
        self.stopping = True
        if self.is_running() and self.pid is not None:
            number = getattr(signal, self.service["stop_signal"])
            try:
                self.kill(number)
                self.process.wait(self.service["stop_grace"])
            except (subprocess.TimeoutExpired, ProcessLookupError):
                pass
        clean = not self.is_running()
        if not clean:
            self.process.kill()
            self.process.wait()
        if self.exit_code is None and self.process is not None:
            self.exit_code = self.process.returncode
            self._drop_network()
        return clean

    def execute(self, *command, timeout=60):
        """A command in the running container, as `docker compose exec`."""
        said = self.service
        caps = [] if said["cap_add"] else ["--bounding-set=-all"]
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", *([] if said["host_pid"] else ["-p"]), "--",
             "/usr/bin/setpriv", f"--reuid={said['user']}", f"--regid={said['group']}", "--clear-groups",
             "--no-new-privs", *caps, "/usr/bin/env", "-i", *(f"{k}={v}" for k, v in self.environment.items()),
             *command], capture_output=True, text=True, timeout=timeout, check=False)

    def _watch_health(self, start):
        health = self.service["health"]
        while not self.stopping and self.starts == start and self.is_running():
            time.sleep(health["interval"])
            if self.starts != start or not self.is_running():
                return
            try:
                done = self.execute(*health["command"], timeout=health["timeout"])
                good, self.last_health = done.returncode == 0, done.stderr
            except subprocess.TimeoutExpired:
                good, self.last_health = False, "timed out"
            if self.starts != start:
                return
            if good:
                self.health, self.failures = "healthy", 0
            elif self.health != "starting" or time.monotonic() - self.started_at > health["start_period"]:
                self.failures += 1
                if self.failures >= health["retries"]:
                    self.health = "unhealthy"


class Engine:
    """`docker compose up` for a file that compose.load() has read. `images`: from image names of the file to Image."""

    def __init__(self, project, images, directory, scale=None):
        self.project, self.images, self.directory = project, images, directory
        self.prefix = f"trib{os.getpid()}"
        self.switch = self.prefix + "-switch"
        self.bridges, self.containers, self.order = {}, {}, list(project["services"])
        self.tmpfs, self._addresses, self._links = [], {}, 0
        self._stop, self._stopped, self._end = threading.Event(), threading.Event(), threading.Event()
        self.limits_enacted = True
        for folder in ("containers", "logs", "volumes"):
            os.makedirs(os.path.join(directory, folder), exist_ok=True)
        run("ip", "netns", "add", self.switch)
        for index, network in enumerate(project["networks"]):
            self.bridges[network] = f"br{index}"
            self._addresses[network] = [index, 1]
            run("ip", "-n", self.switch, "link", "add", f"br{index}", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", f"br{index}", "up")
        for name, service in project["services"].items():
            count = (scale or {}).get(name, service["scale"])
            self.containers[name] = [Container(self, service, number + 1) for number in range(count)]
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def next_address(self, network):
        self._addresses[network][1] += 1
        subnet, host = self._addresses[network]
        return f"10.213.{subnet}.{host}"

    def next_link(self):
        self._links += 1
        return self._links

    def everybody(self):
        return [container for replicas in self.containers.values() for container in replicas]

    def resolve_mount(self, container, entry):
        if entry["kind"] == "bind":
            return entry
        name = entry["source"] or f"{container.name}{entry['target'].replace('/', '-')}"
        path = os.path.join(self.directory, "volumes", name)
        if not os.path.exists(path):
            os.makedirs(path)
            options = (self.project["volumes"].get(entry["source"]) or {}).get("driver_opts")
            if options:
                run("mount", "-t", "tmpfs", "-o", options["o"], "tmpfs", path)
                self.tmpfs.append(path)
            elif os.path.isdir(container.image.rootfs + entry["target"]):
                # As an engine does it: a new volume begins as what the image has there.
                run("cp", "-a", container.image.rootfs + entry["target"] + "/.", path)
                shutil.copystat(container.image.rootfs + entry["target"], path)
                owner = os.stat(container.image.rootfs + entry["target"])
                os.chown(path, owner.st_uid, owner.st_gid)
        return {**entry, "source": path}

    def resolve_secret(self, container, name):
        raise RuntimeError(f"{container.name}: the runner has no secrets ({name})")

    def control_groups(self, container):
        """Files that a process writes itself into, so that deploy.resources.limits hold (cgroup v1)."""
        limits, files = container.service["limits"], []
        settings = (("memory", "memory.limit_in_bytes", limits["memory"]), ("pids", "pids.max", limits["pids"]),
                    ("cpu", "cpu.cfs_quota_us", int(limits["cpus"] * 100_000)))
        for controller, file, value in settings:
            if not value:
                continue
            group = f"{CGROUPS}/{controller}/{self.prefix}-{container.name}"
            try:
                os.makedirs(group, exist_ok=True)
                with open(f"{group}/{file}", "w", encoding="ascii") as out:
                    out.write(str(value))
                files.append(f"{group}/cgroup.procs")
            except OSError:
                self.limits_enacted = False
        return files

    # --- life ---

    def up(self):
        self._thread.start()

    def _ready(self, service):
        for name, condition in service["depends_on"].items():
            others, condition = self.containers[name], condition["condition"]
            if condition == "service_started" and not all(other.starts for other in others):
                return False
            if condition == "service_healthy" and not all(other.health == "healthy" for other in others):
                return False
            if condition == "service_completed_successfully" and not all(
                    other.exit_code == 0 and other.restart_at is None for other in others):
                return False
        return True

    def _loop(self):
        waiting = list(self.order)
        while not self._stop.is_set():
            for name in list(waiting):
                if self._ready(self.project["services"][name]):
                    waiting.remove(name)
                    for container in self.containers[name]:
                        container.start()
            for container in self.everybody():
                try:
                    container.reap()
                except RuntimeError as error:  # shown by the test that waits for it
                    with open(container.log, "a", encoding="utf-8") as log:
                        log.write(f"runner: {error}\n")
                    container.restart_at = time.monotonic() + 1
            time.sleep(0.1)
        self._stopped.set()
        self._end.wait()  # the containers' parent is this thread: they die with it

    def wait(self, what, condition, timeout):
        """Until `condition` holds. A wait has an end, so that a broken file does not hang the test."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout} s\n{self.describe()}")
            time.sleep(0.2)

    def describe(self):
        lines = []
        for container in self.everybody():
            lines.append(f"{container.name}: starts {container.starts}, exit {container.exit_code}, {container.health} "
                         f"{container.last_health.strip()[:300]}")
            if os.path.exists(container.log):
                with open(container.log, encoding="utf-8", errors="replace") as log:
                    lines += ["    " + line.rstrip()[:400] for line in log.readlines()[-6:]]
        return "\n".join(lines)

    def stop(self):
        """In reverse order, as the file says. Returns the names of those that had to be killed."""
        self._stop.set()
        if self._thread.is_alive():
            self._stopped.wait()
        killed = []
        for name in reversed(self.order):
            workers = []
            for container in self.containers[name]:
                def stop_one(container=container):
                    if not container.stop():
                        killed.append(container.name)
                workers.append(threading.Thread(target=stop_one))
                workers[-1].start()
            for worker in workers:
                worker.join()
        return killed

    def close(self):
        self.stop()
        self._end.set()
        for path in self.tmpfs:
            run("umount", "-l", path, check=False)
        run("ip", "netns", "del", self.switch, check=False)
        for container in self.everybody():
            for controller in ("memory", "pids", "cpu"):
                try:
                    os.rmdir(f"{CGROUPS}/{controller}/{self.prefix}-{container.name}")
                except OSError:
                    pass
