"""Builds the images of the Dockerfile without a container engine: a Debian made by debootstrap takes the place of BASE
(no registry is asked), buildah runs the instructions in a chroot, and the build stage is replaced by programs that are
there already. Everything from the Dockerfile's `---- runtime` line on is what is built and tested."""

import os
import subprocess
import sys

MARK = "# ---- runtime"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def has_image(name):
    return subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True,
                          check=False).returncode == 0


def make_base(name, directory):
    """The smallest Debian, once: it stays in the machine's image store."""
    root = os.path.join(directory, "debian")
    run("debootstrap", "--variant=minbase", "bookworm", root)
    # What an official slim image leaves out too.
    for path in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        run("find", os.path.join(root, path), "-mindepth", "1", "-delete")
    container = run("buildah", "from", "scratch")
    run("buildah", "copy", "-q", container, root, "/")
    run("buildah", "config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    run("buildah", "commit", "-q", container, name)
    run("buildah", "rm", container)
    run("rm", "-rf", root)


def build(source, programs, directory, base="localhost/tributary-test-base", tag="localhost/tributary"):
    """Images `tag`:latest and `tag`-chaos:latest with the programs of the folder `programs`. Returns their names."""
    if not has_image(base):
        make_base(base, directory)
    with open(os.path.join(source, "Dockerfile"), encoding="utf-8") as file:
        text = file.read()
    head, mark, rest = text.partition(MARK)
    if not mark or "FROM ${BUILD_BASE} AS build" not in head:
        raise RuntimeError(f"the Dockerfile has no line '{MARK}' after its build stage")
    dockerfile = os.path.join(directory, "Dockerfile")
    with open(dockerfile, "w", encoding="utf-8") as file:
        file.write("ARG BASE\n" + mark + rest)
    made = os.path.join(directory, "made", "out")
    run(os.path.join(source, "deploy/docker/collect.sh"), programs, made)
    names = []
    for target, name in (("runtime", tag + ":latest"), ("chaos", tag + "-chaos:latest")):
        run("buildah", "bud", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker", "--build-arg",
            f"BASE={base}", "--build-context", f"build={os.path.dirname(made)}", "--target", target, "-t", name, "-f",
            dockerfile, source)
        names.append(name)
    return names


if __name__ == "__main__":
    print("\n".join(build(*sys.argv[1:4])))
