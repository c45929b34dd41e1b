"""Reads docker-compose.yml for the runner: interpolates, checks every key, and refuses what it does not know.

What a service says is what the runner does; a key that the runner would have to ignore is an error, except those in
NOT_ENACTED, which change nothing inside a container and are printed."""

import os
import re
import shlex

import yaml


class ComposeError(Exception):
    """The file says something that the runner cannot do, or that is wrong."""


TOP = {"name", "services", "networks", "volumes", "secrets"}
SERVICE = {
    "image", "build", "profiles", "command", "user", "environment", "volumes", "networks", "network_mode", "ports",
    "healthcheck", "depends_on", "restart", "stop_signal", "stop_grace_period", "deploy", "read_only", "cap_drop",
    "cap_add", "security_opt", "tmpfs", "logging", "scale", "pid", "secrets"}
HEALTH = {"test", "interval", "timeout", "retries", "start_period"}
# Build: done before by `buildah`. Ports: there is no host network to publish to. Logging: the runner keeps all of it.
NOT_ENACTED = {"build", "ports", "logging"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?+])([^}]*))?\}|(\w+))")


def interpolate(text, variables):
    """Compose's ${NAME}, ${NAME:-default}, ${NAME:?message}, ${NAME:+value} and $$."""

    def value(match):
        if match[1]:
            return "$"
        name, operator, word = match[2] or match[5], match[3], match[4]
        found = variables.get(name)
        missing = found is None or (operator and operator.startswith(":") and found == "")
        if operator and operator.endswith("-"):
            return word if missing else found
        if operator and operator.endswith("?"):
            if missing:
                raise ComposeError(f"{name}: {word}")
            return found
        if operator and operator.endswith("+"):
            return "" if missing else word
        return found or ""

    return _VARIABLE.sub(value, text)


def _walk(node, variables):
    if isinstance(node, str):
        return interpolate(node, variables)
    if isinstance(node, list):
        return [_walk(item, variables) for item in node]
    if isinstance(node, dict):
        return {key: _walk(item, variables) for key, item in node.items()}
    return node


def seconds(text):
    """'1m30s' in seconds."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", str(text))
    if not parts or not any(parts.groups()):
        raise ComposeError(f"'{text}' is no duration")
    hours, minutes, whole, milli = (int(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + whole + milli / 1000


def size_bytes(text):
    parts = re.fullmatch(r"(\d+)([kKmMgG]?)[bB]?", str(text))
    if not parts:
        raise ComposeError(f"'{text}' is no size")
    return int(parts[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[parts[2].lower()]


def _known(what, mapping, keys):
    unknown = set(mapping) - set(keys)
    if unknown:
        raise ComposeError(f"{what}: the runner does not know {', '.join(sorted(unknown))}")


def _mount(name, text, directory, volumes):
    parts = text.split(":")
    if len(parts) == 1:
        return {"kind": "anonymous", "source": None, "target": text, "read_only": False}
    read_only = len(parts) > 2 and parts[2] == "ro"
    if len(parts) > 3 or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise ComposeError(f"{name}: volume '{text}' has options that the runner does not know")
    if parts[0].startswith((".", "/")):
        source = os.path.normpath(os.path.join(directory, parts[0]))
        if not os.path.exists(source):
            raise ComposeError(f"{name}: volume '{text}': there is no {source}")
        return {"kind": "bind", "source": source, "target": parts[1], "read_only": read_only}
    if parts[0] not in volumes:
        raise ComposeError(f"{name}: volume '{parts[0]}' is not declared under volumes")
    return {"kind": "volume", "source": parts[0], "target": parts[1], "read_only": read_only}


def _tmpfs(name, text):
    target, _, options = text.partition(":")
    for option in filter(None, options.split(",")):
        if option.split("=")[0] not in ("size", "mode", "uid", "gid"):
            raise ComposeError(f"{name}: tmpfs option '{option}' is not known to the runner")
    return {"target": target, "options": options}


def _limits(name, deploy):
    _known(f"{name}.deploy", deploy, {"resources"})
    resources = deploy.get("resources", {})
    _known(f"{name}.deploy.resources", resources, {"limits", "reservations"})
    limits = resources.get("limits", {})
    _known(f"{name}.deploy.resources.limits", limits, {"cpus", "memory", "pids"})
    devices = resources.get("reservations", {})
    _known(f"{name}.deploy.resources.reservations", devices, {"devices"})
    return {"cpus": float(limits.get("cpus", 0)), "memory": size_bytes(limits.get("memory", 0)),
            "pids": int(limits.get("pids", 0)), "devices": devices.get("devices", [])}


def _service(name, said, directory, volumes, networks):
    _known(f"services.{name}", said, SERVICE)
    command = said.get("command", [])
    environment = said.get("environment") or {}
    if isinstance(environment, list):
        environment = dict(item.split("=", 1) for item in environment)
    depends = said.get("depends_on", {})
    if isinstance(depends, list):
        depends = {other: {"condition": "service_started"} for other in depends}
    for other, condition in depends.items():
        _known(f"{name}.depends_on.{other}", condition, {"condition"})
        if condition["condition"] not in CONDITIONS:
            raise ComposeError(f"{name}.depends_on.{other}: condition '{condition['condition']}'")
    health = said.get("healthcheck")
    if health is not None:
        _known(f"{name}.healthcheck", health, HEALTH)
        test = health["test"]
        if not isinstance(test, list) or test[0] not in ("CMD", "CMD-SHELL"):
            raise ComposeError(f"{name}.healthcheck.test: a list that begins with CMD or CMD-SHELL")
        health = {"command": test[1:] if test[0] == "CMD" else ["/bin/sh", "-c", test[1]],
                  "interval": seconds(health.get("interval", "30s")), "timeout": seconds(health.get("timeout", "30s")),
                  "retries": int(health.get("retries", 3)), "start_period": seconds(health.get("start_period", "0s"))}
    for option in said.get("security_opt", []):
        if option not in ("no-new-privileges:true", "no-new-privileges"):
            raise ComposeError(f"{name}.security_opt: '{option}'")
    if said.get("cap_drop", []) not in ([], ["ALL"]):
        raise ComposeError(f"{name}.cap_drop: only ALL")
    restart = str(said.get("restart", "no"))
    if not re.fullmatch(r"no|always|unless-stopped|on-failure(:\d+)?", restart):
        raise ComposeError(f"{name}.restart: '{restart}'")
    mode = said.get("network_mode")
    if mode is not None and mode != "none" and not mode.startswith("service:"):
        raise ComposeError(f"{name}.network_mode: '{mode}'")
    if mode is not None and "networks" in said:
        raise ComposeError(f"{name}: network_mode and networks together")
    if said.get("pid", "host") != "host":
        raise ComposeError(f"{name}.pid: '{said['pid']}'")
    joined = said.get("networks", [])
    for network in joined:
        if network not in networks:
            raise ComposeError(f"{name}: network '{network}' is not declared under networks")
    user, _, group = str(said.get("user", "0:0")).partition(":")
    return {
        "name": name, "image": said["image"], "profiles": said.get("profiles", []),
        "command": shlex.split(command) if isinstance(command, str) else [str(word) for word in command],
        "environment": {key: "" if value is None else str(value) for key, value in environment.items()},
        "user": int(user), "group": int(group or 0), "networks": joined, "network_mode": mode,
        "mounts": [_mount(name, text, directory, volumes) for text in said.get("volumes", [])],
        "tmpfs": [_tmpfs(name, text) for text in said.get("tmpfs", [])],
        "secrets": said.get("secrets", []), "health": health, "depends_on": depends, "restart": restart,
        "scale": int(said.get("scale", 1)), "host_pid": said.get("pid") == "host",
        "stop_signal": said.get("stop_signal", "SIGTERM"),
        "stop_grace": seconds(said.get("stop_grace_period", "10s")), "limits": _limits(name, said.get("deploy", {})),
        "read_only": bool(said.get("read_only", False)), "drop_all": said.get("cap_drop") == ["ALL"],
        "cap_add": said.get("cap_add", []), "no_new_privileges": bool(said.get("security_opt")),
        "not_enacted": sorted(NOT_ENACTED & set(said))}


def load(path, variables, profiles):
    """The active services by name, with their networks and volumes; `variables` as the shell would have them."""
    with open(path, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    document = {key: value for key, value in document.items() if not key.startswith("x-")}
    _known("the file", document, TOP)
    variables = {"COMPOSE_PROJECT_NAME": document.get("name", "project"), **variables}
    document = _walk(document, variables)
    volumes, networks = document.get("volumes", {}), document.get("networks", {})
    for name, volume in volumes.items():
        _known(f"volumes.{name}", volume or {}, {"driver", "driver_opts"})
        options = (volume or {}).get("driver_opts", {})
        if options and (options.get("type") != "tmpfs" or set(options) != {"type", "device", "o"}):
            raise ComposeError(f"volumes.{name}: the runner knows local volumes and those of type tmpfs")
    for name, network in networks.items():
        _known(f"networks.{name}", network or {}, {"internal"})
    directory = os.path.dirname(os.path.abspath(path))
    services = {name: _service(name, said, directory, volumes, networks)
                for name, said in document["services"].items()}
    active = {name: service for name, service in services.items()
              if not service["profiles"] or set(service["profiles"]) & set(profiles)}
    for name, service in active.items():
        needed = list(service["depends_on"])
        if (service["network_mode"] or "").startswith("service:"):
            needed.append(service["network_mode"].split(":", 1)[1])
        for other in needed:
            if other not in active:
                raise ComposeError(f"{name} needs {other}, which no active profile has")
    return {"services": active, "all": services, "networks": networks, "volumes": volumes}
