"""Becomes one container: run inside fresh namespaces with a JSON specification, it makes the root file system what the
compose file says, drops what it says to drop, and executes the command. Its caller is engine.py."""

import ctypes
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_READ = 1, 24, 38, 23
SYS_pivot_root = 155
# capabilities(7), as Docker gives them to a container that drops none.
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
                "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27,
                "AUDIT_WRITE": 29, "SETFCAP": 31}
USUAL = set(CAPABILITIES) - {"NET_ADMIN"}


def check(result, what):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source, target, kind, flags, data=""):
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount on {target}")


def bind(source, target, read_only):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8"):
            pass
    mount(source, target, "", MS_BIND | MS_REC)
    flags = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    mount("", target, "", flags)


def build_root(spec):
    """An overlay over the image, so that mount points can be made; read-only at last if the file says so."""
    root = spec["scratch"] + "/root"
    for folder in ("root", "upper", "work"):
        os.makedirs(f"{spec['scratch']}/{folder}", exist_ok=True)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("overlay", root, "overlay", 0,
          f"lowerdir={spec['rootfs']},upperdir={spec['scratch']}/upper,workdir={spec['scratch']}/work")
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if not spec["host_pid"]:
        for path in ("sys", "sysrq-trigger", "irq", "bus"):
            if os.path.exists(f"{root}/proc/{path}"):
                mount(f"{root}/proc/{path}", f"{root}/proc/{path}", "", MS_BIND | MS_REC)
                mount("", f"{root}/proc/{path}", "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    mount("tmpfs", root + "/dev", "tmpfs", MS_NOSUID, "size=64k,mode=755")
    for device in ("null", "zero", "full", "random", "urandom", "tty"):
        with open(f"{root}/dev/{device}", "w", encoding="utf-8"):
            pass
        mount(f"/dev/{device}", f"{root}/dev/{device}", "", MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                         ("stderr", "/proc/self/fd/2")):
        os.symlink(target, f"{root}/dev/{name}")
    os.mkdir(root + "/dev/shm")
    mount("tmpfs", root + "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m,mode=1777")
    for name in ("hosts", "hostname", "resolv.conf"):
        bind(f"{spec['scratch']}/{name}", f"{root}/etc/{name}", True)
    for entry in spec["tmpfs"]:
        os.makedirs(root + entry["target"], exist_ok=True)
        mount("tmpfs", root + entry["target"], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, entry["options"])
    for entry in sorted(spec["mounts"], key=lambda one: one["target"]):
        bind(entry["source"], root + entry["target"], entry["read_only"])
    if spec["read_only"]:
        mount("", root, "", MS_BIND | MS_REMOUNT | MS_RDONLY)
    return root


def enter(root):
    os.chdir(root)
    check(libc.syscall(SYS_pivot_root, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def drop(spec):
    keep = {name for name in (set() if spec["drop_all"] else USUAL) | set(spec["cap_add"])}
    kept = {CAPABILITIES[name] for name in keep}
    for number in range(64):
        if libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) < 0:
            break
        if number not in kept:
            check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"capability {number}")
    if spec["no_new_privileges"]:
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.setgroups([])
    os.setresgid(spec["group"], spec["group"], spec["group"])
    os.setresuid(spec["user"], spec["user"], spec["user"])


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    libc.sethostname(spec["hostname"].encode(), len(spec["hostname"]))
    enter(build_root(spec))
    drop(spec)
    os.umask(0o022)
    os.chdir(spec["directory"])
    os.closerange(3, 256)
    os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])


main()
