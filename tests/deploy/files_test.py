"""What can be said of the deployment's files without running them: docker-compose.yml, the Dockerfile, the scripts, the
units, the alerts and the board, the Kubernetes manifests, and what the documents say of them. Needs python3-yaml; uses
shellcheck, promtool, systemd-analyze and node where they are. Usage: files_test.py SOURCE BUILD; exit 77: skipped."""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import yaml
except ImportError:
    print("skipped: Python's yaml is missing: install python3-yaml")
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compose  # noqa: E402  pylint: disable=wrong-import-position

SOURCE, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
PROFILES = ["sim", "gpu", "observe", "chaos"]


def path(*parts):
    return os.path.join(SOURCE, *parts)


def text(*parts):
    with open(path(*parts), encoding="utf-8") as file:
        return file.read()


def needs(tool):
    return unittest.skipIf(shutil.which(tool) is None, f"{tool} is not installed")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


class Compose(unittest.TestCase):
    def load(self, profiles, **variables):
        return compose.load(path("docker-compose.yml"), variables, profiles)

    def test_every_profile_is_understood_whole(self):
        self.assertEqual(set(self.load([])["services"]), {"aggregator"})
        self.assertEqual(set(self.load(["sim"])["services"]), {"aggregator", "invite", "client", "job"})
        self.assertEqual(set(self.load(["gpu"])["services"]), {"aggregator", "invite", "client-gpu", "job"})
        self.assertEqual(set(self.load(["sim", "chaos"])["services"]),
                         {"aggregator", "invite", "client", "job", "chaos-kill", "chaos-delay"})
        self.assertEqual(set(self.load(["observe"])["services"]),
                         {"aggregator", "observe-token", "prometheus", "grafana"})

    def test_a_key_that_the_runner_does_not_know_is_an_error(self):
        for old, new in (("read_only: true", "read_only: true\n  privileged: true"), ("interval: 2s", "intervall: 2s"),
                         ("restart: \"no\"", "restart: sometimes"), ("internal: true", "internall: true")):
            with tempfile.TemporaryDirectory() as directory:
                for folder in ("base", "datasets", "experiments", "deploy"):
                    os.symlink(path(folder), os.path.join(directory, folder))
                changed = text("docker-compose.yml").replace(old, new, 1)
                self.assertNotEqual(changed, text("docker-compose.yml"))
                file = os.path.join(directory, "docker-compose.yml")
                with open(file, "w", encoding="utf-8") as out:
                    out.write(changed)
                with self.assertRaises(compose.ComposeError):
                    compose.load(file, {}, PROFILES)

    def test_every_service_is_confined(self):
        for name, service in self.load(PROFILES)["services"].items():
            self.assertTrue(service["read_only"], name)
            self.assertTrue(service["drop_all"], name)
            self.assertTrue(service["no_new_privileges"], name)
            self.assertTrue(all(service["limits"][kind] for kind in ("cpus", "memory", "pids")), name)
            self.assertIn("logging", service["not_enacted"], name)
            root, extra = (0, ["NET_ADMIN"]) if name == "chaos-delay" else (service["user"] or 10001, [])
            self.assertEqual((service["user"], service["cap_add"]), (root, extra), name)
            for mount in service["mounts"]:
                self.assertTrue(mount["kind"] != "bind" or mount["read_only"], f"{name}: {mount}")
                self.assertNotIn("docker.sock", str(mount["source"]), name)

    def test_clients_have_their_own_volume_and_never_the_federations(self):
        for name in ("client", "client-gpu"):
            service = self.load(PROFILES)["services"][name]
            self.assertEqual([m["target"] for m in service["mounts"] if m["kind"] == "anonymous"], ["/var/lib/tributary"])
            self.assertEqual({m["source"] for m in service["mounts"] if m["kind"] == "volume"}, {"spool"})
            self.assertEqual(service["networks"], ["sites"])
            self.assertNotIn("ports", service["not_enacted"])
        self.assertEqual(self.load([])["networks"]["sites"], {"internal": True})

    def test_variables_of_the_file_reach_the_services(self):
        services = self.load(["sim"], TRIBUTARY_CLIENTS="8", TRIBUTARY_JOB_SET="job.rounds=2")["services"]
        self.assertEqual(services["invite"]["environment"]["TRIBUTARY_CLIENTS"], "8")
        self.assertEqual(services["job"]["environment"]["TRIBUTARY_JOB_SET"], "job.rounds=2")
        self.assertEqual(compose.interpolate("${A:-b} ${C-d} $$E ${F:+g}", {"A": "", "C": "", "F": "1"}), "b  $E g")
        with self.assertRaises(compose.ComposeError):
            compose.interpolate("${A:?must be set}", {})

    def test_every_setting_is_read_by_a_script_and_documented(self):
        scripts = "".join(text("deploy/docker", os.path.basename(f)) for f in glob.glob(path("deploy/docker/*.sh")))
        read = set(re.findall(r"TRIBUTARY_[A-Z_]+", scripts))
        given = set()
        for service in self.load(PROFILES)["services"].values():
            given |= {key for key in service["environment"] if key.startswith("TRIBUTARY_")}
        for file in ("aggregator.yaml", "site.yaml"):
            given |= set(re.findall(r"TRIBUTARY_[A-Z_]+", text("deploy/kubernetes", file)))
        self.assertEqual(given - read, set(), "set, and read by no script")
        documents = text("docs/deployment.md")
        self.assertEqual({name for name in read if name not in documents}, set(), "not in docs/deployment.md")

    def test_every_role_is_a_script(self):
        for name, service in self.load(PROFILES)["services"].items():
            if service["image"].startswith("tributary"):
                script = path("deploy/docker", service["command"][0] + ".sh")
                self.assertTrue(os.access(script, os.X_OK), f"{name}: {script}")


class Image(unittest.TestCase):
    def test_last_stage_is_unprivileged_and_says_how_it_stops_and_whether_it_is_well(self):
        lines = [line for line in text("Dockerfile").splitlines() if line and not line.startswith("#")]
        start = next(i for i, line in enumerate(lines) if line.endswith("AS runtime"))
        end = next(i for i, line in enumerate(lines) if line.endswith("AS chaos"))
        runtime = "\n".join(lines[start:end])
        for wanted in ("USER 10001:10001", "STOPSIGNAL SIGTERM", "HEALTHCHECK ", "VOLUME ", "ENTRYPOINT [",
                       "org.opencontainers.image.licenses", "org.opencontainers.image.revision"):
            self.assertIn(wanted, runtime)
        self.assertEqual(lines[-1], "FROM runtime")
        self.assertNotRegex(text("Dockerfile"), r"(?m)^ADD ")

    def test_nothing_but_sources_is_sent_to_the_build(self):
        lines = [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]
        self.assertEqual(lines[0], "*")
        for line in lines:
            if line.startswith("!"):
                self.assertTrue(os.path.exists(path(line[1:])), line)
        sent = {line[1:] for line in lines if line.startswith("!")}
        for copied in re.findall(r"(?m)^add_subdirectory\(([a-z]+)\)|TRIB_FOLDERS ([a-z ]+)\)", text("CMakeLists.txt")):
            self.assertLessEqual(set(" ".join(copied).split()), sent | {"tests"})


class Scripts(unittest.TestCase):
    @needs("shellcheck")
    def test_shellcheck_has_nothing_to_say(self):
        scripts = sorted(glob.glob(path("deploy/docker/*.sh")))
        done = run("shellcheck", "-x", *scripts, cwd=SOURCE)
        self.assertEqual(done.stdout, "")

    def test_entry_point_names_what_it_does_not_know(self):
        done = run(path("deploy/docker/entrypoint.sh"), "agregator")
        self.assertEqual(done.returncode, 2)
        self.assertIn("'agregator'", done.stderr)

    def test_missing_settings_are_named(self):
        with tempfile.TemporaryDirectory() as directory:
            environment = {"PATH": os.environ["PATH"], "TRIBUTARY_SITE_DIR": directory, "TRIBUTARY_DATA_FILE": "x"}
            done = run(path("deploy/docker/client.sh"), env=environment)
            self.assertEqual(done.returncode, 2)
            self.assertIn("TRIBUTARY_TOKEN_FILE is not set", done.stderr)
            self.assertEqual(json.loads(done.stderr)["level"], "error")

    def test_health_of_a_client_is_its_connection(self):
        for state, code in (("connected", 0), ("waiting", 1)):
            with tempfile.TemporaryDirectory() as directory:
                with open(os.path.join(directory, "status.json"), "w", encoding="utf-8") as file:
                    file.write('{"site":"a","connection":{"state":"%s","server":"b:1"},"jobs":[{"state":"connected"}]}' % state)
                environment = {"PATH": os.environ["PATH"], "TRIBUTARY_SITE_DIR": directory, "TRIBUTARY_ROLE": "client"}
                self.assertEqual(run(path("deploy/docker/health.sh"), env=environment).returncode, code, state)


class Units(unittest.TestCase):
    @needs("systemd-analyze")
    def test_units_verify_and_are_confined(self):
        with tempfile.TemporaryDirectory() as directory:
            programs = os.path.join(BUILD, "bin")
            for unit, instance in (("trib-server.service", "trib-server.service"),
                                   ("trib-client@.service", "trib-client@st-mary.service")):
                file = os.path.join(directory, instance)
                with open(file, "w", encoding="utf-8") as out:
                    out.write(text("deploy/systemd", unit).replace("/usr/local/bin", programs))
                done = run("systemd-analyze", "verify", "--man=no", file)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                done = run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file)
                self.assertEqual(done.returncode, 0, done.stdout[-300:])


class Monitoring(unittest.TestCase):
    def metrics(self, source):
        found = set(re.findall(r"\btributary_[a-z_]+", source))
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}

    def test_board_and_alerts_use_metrics_that_the_daemons_give(self):
        given = set(re.findall(r'"(tributary_[a-z_]+)"', text("server/metrics.cpp") + text("client/metrics.cpp")))
        self.assertGreater(len(given), 30)
        board = self.metrics(text("deploy/grafana/dashboards/tributary.json"))
        alerts = self.metrics(text("deploy/prometheus/alerts.yml"))
        self.assertEqual((board | alerts) - given, set())
        self.assertEqual(alerts - board, set(), "an alert whose figure the board does not show")

    def test_board_can_be_provisioned(self):
        board = json.loads(text("deploy/grafana/dashboards/tributary.json"))
        self.assertEqual(board["uid"], "tributary-federation")
        self.assertNotIn("__inputs", board)
        names = [variable["name"] for variable in board["templating"]["list"]]
        self.assertEqual(names[0], "datasource")
        ids, cells = set(), set()
        for panel in board["panels"]:
            self.assertNotIn(panel["id"], ids)
            ids.add(panel["id"])
            area = panel["gridPos"]
            self.assertLessEqual(area["x"] + area["w"], 24)
            for cell in ((x, y) for x in range(area["x"], area["x"] + area["w"]) for y in range(area["y"], area["y"] + area["h"])):
                self.assertNotIn(cell, cells, f"{panel['title']} lies over another panel")
                cells.add(cell)
            if panel["type"] == "row":
                continue
            self.assertEqual(panel["datasource"]["uid"], "${datasource}")
            for target in panel["targets"]:
                for name in re.findall(r"\$\{?(\w+)", target["expr"]):
                    self.assertIn(name, names + ["__rate_interval"], panel["title"])

    def test_every_alert_names_a_chapter_that_there_is(self):
        headings = {"#" + re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in text("docs/deployment.md").splitlines() if line.startswith("#")}
        for group in yaml.safe_load(text("deploy/prometheus/alerts.yml"))["groups"]:
            for rule in group["rules"]:
                file, _, anchor = rule["annotations"]["runbook"].partition("#")
                self.assertEqual(file, "docs/deployment.md")
                self.assertIn("#" + anchor, headings, rule["alert"])

    @needs("promtool")
    def test_prometheus_accepts_the_configuration_and_the_alerts_fire_when_they_should(self):
        for command in (["check", "config", "--syntax-only", path("deploy/prometheus/prometheus.yml")],
                        ["check", "rules", path("deploy/prometheus/alerts.yml")],
                        ["test", "rules", path("tests/deploy/rules_test.yml")]):
            done = run("promtool", *command)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    @needs("promtool")
    def test_every_expression_of_the_board_is_one(self):
        board = json.loads(text("deploy/grafana/dashboards/tributary.json"))
        rules = []
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "1m").replace("$site", ".*").replace("$data_set", ".*")
                rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": expression})
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}, file)
            file.flush()
            done = run("promtool", "check", "rules", file.name)
            self.assertEqual(done.returncode, 0, done.stderr)


class Kubernetes(unittest.TestCase):
    def setUp(self):
        self.objects = []
        for file in yaml.safe_load(text("deploy/kubernetes/kustomization.yaml"))["resources"]:
            self.objects += [entry for entry in yaml.safe_load_all(text("deploy/kubernetes", file)) if entry]

    def of(self, kind):
        return [entry for entry in self.objects if entry["kind"] == kind]

    def test_pods_satisfy_the_restricted_standard(self):
        for entry in self.of("StatefulSet"):
            spec = entry["spec"]["template"]["spec"]
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(spec["automountServiceAccountToken"])
            for container in spec["containers"]:
                context = container["securityContext"]
                self.assertEqual((context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"],
                                  context["capabilities"]), (False, True, {"drop": ["ALL"]}))
                self.assertIn("memory", container["resources"]["limits"])
            for volume in spec["volumes"]:
                self.assertTrue(set(volume) & {"emptyDir", "secret", "persistentVolumeClaim"}, volume)

    def test_references_lead_somewhere(self):
        names = {(entry["kind"], entry["metadata"]["name"]) for entry in self.objects}
        for entry in self.of("StatefulSet"):
            spec = entry["spec"]["template"]["spec"]
            labels = entry["spec"]["template"]["metadata"]["labels"]
            self.assertEqual(entry["spec"]["selector"]["matchLabels"], labels)
            self.assertIn(("Service", entry["spec"]["serviceName"]), names)
            volumes = {v["name"] for v in spec["volumes"]} | {c["metadata"]["name"] for c in entry["spec"]["volumeClaimTemplates"]}
            for volume in spec["volumes"]:
                if "secret" in volume:
                    self.assertIn(("Secret", volume["secret"]["secretName"]), names)
                if "persistentVolumeClaim" in volume:
                    self.assertIn(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]), names)
            for container in spec["containers"]:
                self.assertLessEqual({mount["name"] for mount in container["volumeMounts"]}, volumes)
                for source in container["envFrom"]:
                    self.assertIn(("ConfigMap", source["configMapRef"]["name"]), names)
                ports = {port["name"] for port in container.get("ports", [])}
                for service in self.of("Service"):
                    if service["metadata"]["name"] == entry["spec"]["serviceName"]:
                        self.assertLessEqual({port["targetPort"] for port in service["spec"].get("ports", [])}, ports)
                        self.assertLessEqual(service["spec"]["selector"].items(), labels.items())
        for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            for entry in self.of(kind):
                wanted = entry["spec"][key].get("matchLabels", {})
                self.assertTrue(any(wanted.items() <= pod["spec"]["template"]["metadata"]["labels"].items()
                                    for pod in self.of("StatefulSet")), entry["metadata"]["name"])

    def test_a_policy_denies_everything_that_no_other_allows(self):
        everything = [entry for entry in self.of("NetworkPolicy") if entry["spec"]["podSelector"] == {}]
        self.assertEqual([entry["spec"]["policyTypes"] for entry in everything], [["Ingress", "Egress"]])

    @needs("node")
    def test_the_apis_own_schemas_accept_the_manifests_and_not_what_is_misspelt(self):
        modules = os.path.join(BUILD, "..", "deploy-tools")
        if not os.path.isdir(os.path.join(modules, "node_modules", "kubernetes-models")):
            self.skipTest("npm install --prefix build/deploy-tools kubernetes-models@5 yaml@2 (`./dev test` does it)")
        files = sorted(glob.glob(path("deploy/kubernetes/*.yaml")))
        done = run("node", path("tests/deploy/check_manifests.mjs"), *files, cwd=modules)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.strip(), f"{len(self.objects)} passed, 0 failed")
        for old, new in (("replicas: 1", "replicas: one"), ("readOnlyRootFilesystem", "readOnlyRootFs")):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text("deploy/kubernetes/aggregator.yaml").replace(old, new))
                file.flush()
                self.assertEqual(run("node", path("tests/deploy/check_manifests.mjs"), file.name, cwd=modules).returncode, 1, new)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
