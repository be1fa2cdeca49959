#!/usr/bin/env python3
"""Measures other task queues on one private Redis. One line of JSON per peer and setting; README.md says what it means."""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 60  # seconds without any result, after which a peer is given up


def peers(folder):
    """How each is started, which command counts its stored results (in which database), and its settings."""
    apalis = str(folder / "target/release/peer-apalis")
    celery = str(folder / "celery/bin")
    # One less for each task that is ready or leased, so it rises by one for each that is done.
    left = "return -redis.call('ZCARD', KEYS[1]) - redis.call('ZCARD', KEYS[2])"
    stem = str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target")) / "release/stem-bench")
    return {
        "stem": {
            "client": [stem, "peer"],
            "worker": [stem, "peer", "worker"],
            "settings": {
                "inline, concurrency=256, prefetch=64": ["inline", "256", "64"],
                "isolate, concurrency=256, prefetch=64": ["isolate", "256", "64"],
                "isolate, Rust component, concurrency=256, prefetch=64": ["component", "256", "64"],
                "isolate, concurrency=2": ["isolate", "2", "2"],
            },
            "results": (0, "EVAL", left, "2", "{stem}/q/ready/default/noop", "{stem}/q/leased/default"),
            "tasks": 20_000,
        },
        "celery": {
            "client": [f"{celery}/python", "client.py"],
            "worker": [f"{celery}/celery", "-A", "tasks", "worker", "-l", "WARNING", "-c"],
            "settings": {"prefork, concurrency=2": ["2"]},
            "results": (1, "DBSIZE"),
            "tasks": 5_000,
        },
        "bullmq": {
            "client": ["node", "client.js"],
            "worker": ["node", "worker.js"],
            "settings": {"concurrency=2": ["2"], "concurrency=100": ["100"]},
            "results": (0, "ZCARD", "bull:noop:completed"),
            "tasks": 20_000,
        },
        "sidekiq": {
            "client": ["ruby", "client.rb"],
            "worker": ["sidekiq", "-r", "./noop.rb", "-c"],
            "settings": {"concurrency=2": ["2"], "concurrency=10": ["10"]},
            "results": (1, "DBSIZE"),
            "tasks": 20_000,
        },
        "apalis": {
            "client": [apalis],
            "worker": [apalis, "worker"],
            "settings": {
                "concurrency=2, batch=10, poll=100ms": ["2", "10"],
                "concurrency=100, batch=10, poll=100ms": ["100", "10"],
                "concurrency=100, batch=100, poll=100ms": ["100", "100"],
            },
            "results": (0, "SCARD", "noop:done"),
            "tasks": 7_000,
            "at_most": 7_000,  # a backlog of more than about 8,000 ends its worker
        },
    }


class Redis:
    """As much of a client as counting needs. It counts its own commands, so that they can be left out."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.replies = self.socket.makefile("rb")
        self.sent = 0
        self.database = 0

    def __call__(self, *words):
        self.sent += 1
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        return self.reply()

    def reply(self):
        line = self.replies.readline()[:-2].decode()
        kind, rest = line[0], line[1:]
        if kind == "-":
            raise RuntimeError(rest)
        if kind == "$":
            return self.replies.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == ":" else rest

    def info(self, section):
        return dict(line.split(":", 1) for line in self("INFO", section).splitlines() if ":" in line)

    def select(self, database):
        if database != self.database:
            self("SELECT", str(database))
            self.database = database


def stat(pid):
    """Parent and CPU seconds of a process, its dead children included."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS


def tree_cpu(root):
    """CPU seconds of a process and of everything below it."""
    parents, cpu = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)], cpu[int(entry)] = stat(entry)
            except (FileNotFoundError, ProcessLookupError):
                pass

    def below(pid):
        while pid and pid != root:
            pid = parents.get(pid)
        return pid == root

    return sum(seconds for pid, seconds in cpu.items() if below(pid))


def machine_cpu():
    """CPU seconds of everything on this machine, and what a hypervisor kept for itself."""
    user, nice, system, _, _, *interrupts_and_steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_steal)) / TICKS


class Snapshot:
    """Where everything stands at one moment."""

    def __init__(self, redis, redis_pid, worker_pid, results):
        self.results, self.at, self.sent = results, time.monotonic(), redis.sent
        stats = redis.info("stats")
        self.commands, self.reads = int(stats["total_commands_processed"]), int(stats["total_reads_processed"])
        self.worker, self.redis, self.machine = tree_cpu(worker_pid), stat(redis_pid)[1], machine_cpu()

    def until(self, end):
        tasks, ours = end.results - self.results, end.sent - self.sent
        worker, redis, machine = end.worker - self.worker, end.redis - self.redis, end.machine - self.machine
        return {
            "tasks_per_s": round(tasks / (end.at - self.at)),
            "worker_cpu_s_per_1000": round(worker / tasks * 1e3, 3),
            "redis_cpu_s_per_1000": round(redis / tasks * 1e3, 3),
            "commands_per_task": round((end.commands - self.commands - ours) / tasks, 1),
            "reads_per_task": round((end.reads - self.reads - ours) / tasks, 2),
            "others_cores": round(max(0, machine - worker - redis) / (end.at - self.at), 2),
        }


class Run:
    """One peer in one setting, on a Redis that has nothing in it."""

    def __init__(self, folder, name, peer, arguments, port, scratch):
        self.name, self.peer, self.arguments = name, peer, arguments
        self.redis = Redis(port)
        self.redis_pid = int(self.redis.info("server")["process_id"])
        self.log = scratch / f"{name}.log"
        self.cwd = HERE / name if (HERE / name).is_dir() else HERE
        self.started = []
        self.env = os.environ | {
            "REDIS_URL": f"redis://127.0.0.1:{port}",
            "NODE_PATH": str(folder / "bullmq/node_modules"),
            "NODE_ENV": "production",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends what was started, and whatever of its session is left."""
        for process in self.started:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def start(self, command, **pipes):
        with open(self.log, "ab") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | pipes
            process = subprocess.Popen(command, cwd=self.cwd, env=self.env, start_new_session=True, **pipes)
        self.started.append(process)
        return process

    def worker(self):
        return self.start(self.peer["worker"] + self.arguments)

    def failed(self, why):
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        return RuntimeError(f"{self.name}: {why}\n{tail}")

    def stored(self):
        database, *command = self.peer["results"]
        self.redis.select(database)
        return self.redis(*command)

    def throughput(self, tasks):
        """From the first result that is seen to the last; so neither the start of a worker nor the enqueueing counts."""
        if self.start(self.peer["client"] + ["enqueue", str(tasks)]).wait(600) != 0:
            raise self.failed("cannot enqueue")
        before = self.stored()
        worker = self.worker()
        first, seen, changed = None, 0, time.monotonic()
        while True:
            results = self.stored() - before
            if results > seen:
                seen, changed = results, time.monotonic()
                if first is None or results >= tasks:
                    snapshot = Snapshot(self.redis, self.redis_pid, worker.pid, results)
                    if results >= tasks:
                        return first.until(snapshot)
                    first = snapshot
            elif worker.poll() is not None or time.monotonic() - changed > PATIENCE:
                raise self.failed(f"stopped at {results} of {tasks}")
            time.sleep(0.005)

    def idle(self, rounds, warm_up=50):
        """One task at a time, by the peer's own client, which measures itself; we only say when."""
        self.worker()
        client = self.start(self.peer["client"] + ["rounds"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        figures, pauses = [], random.Random(1)
        for _ in range(warm_up + rounds):
            time.sleep(pauses.uniform(0.005, 0.020))
            watchdog = threading.Timer(PATIENCE, client.kill)
            watchdog.start()
            client.stdin.write(b"\n")
            client.stdin.flush()
            line = client.stdout.readline()
            watchdog.cancel()
            if not line:
                raise self.failed("the client ended, or waited too long")
            figures.append(float(line))
        figures = sorted(figures[warm_up:])
        return {f"idle_p{part}_ms": round(figures[rounds * part // 100], 2) for part in (50, 99)}


class OwnRedis:
    """Debian's Redis as it comes, in a folder of its own; without or with an append-only file."""

    def __init__(self, aof, scratch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = tempfile.mkdtemp(prefix="redis-", dir=scratch)
        append = ["--appendonly", "yes", "--appendfsync", aof] if aof != "no" else ["--appendonly", "no"]
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, *append]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self):
        for _ in range(200):
            try:
                Redis(self.port)
                return self
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise RuntimeError("redis-server does not come up")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


class OthersRedis:
    """A Redis that somebody else runs for us; emptied before and after each measurement, if it was empty when we came."""

    def __init__(self, port):
        self.port = port

    def __enter__(self):
        Redis(self.port)("FLUSHALL")
        return self

    def __exit__(self, *_):
        Redis(self.port)("FLUSHALL")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="where setup.sh put the peers")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--own-redis", action="store_true", help="a fresh redis-server for each measurement")
    where.add_argument("--redis-port", type=int, help="an EMPTY Redis on 127.0.0.1; it is flushed")
    parser.add_argument("--aof", choices=["no", "everysec"], default="no", help="with --own-redis (default: no)")
    parser.add_argument("--peer", nargs="+", choices=list(peers(pathlib.Path())), help="default: all")
    parser.add_argument("--tasks", type=int, help="in a throughput run, instead of each peer's own number")
    parser.add_argument("--rounds", type=int, default=300, help="of the idle latency (default: 300)")
    parser.add_argument("--repeat", type=int, default=1, help="throughput runs, of which the median is told (default: 1)")
    options = parser.parse_args()
    if options.redis_port:
        if options.aof != "no":
            parser.error("--aof needs --own-redis; another Redis is taken as it is")
        if Redis(options.redis_port).info("keyspace"):
            parser.error("this Redis is not empty, and it would be flushed")
    return options


def measure(run_of, options, tasks):
    runs = []
    for _ in range(options.repeat):
        with run_of() as run:
            runs.append(run.throughput(tasks))
    runs.sort(key=lambda figures: figures["tasks_per_s"])
    line = runs[len(runs) // 2] | {"runs": [figures["tasks_per_s"] for figures in runs]}
    with run_of() as run:
        line |= run.idle(options.rounds)
        append = dict(zip(*[iter(run.redis("CONFIG", "GET", "append*"))] * 2))
        line["aof"] = append["appendfsync"] if append["appendonly"] == "yes" else "no"
        line["redis"] = run.redis.info("server")["redis_version"]
    return line


def main():
    options = arguments()
    folder = options.dir.resolve()
    chosen = {name: peer for name, peer in peers(folder).items() if not options.peer or name in options.peer}
    for name, peer in chosen.items():
        version = folder / f"{name}.version"
        if name == "stem":
            built = pathlib.Path(peer["client"][0]).exists()
            if not built:
                sys.exit("stem is not built: cargo xtask guests && cargo build --release -p stem-bench")
            peer["version"] = "this tree"
            continue
        if not version.exists():
            sys.exit(f"{name} is not there: {HERE}/setup.sh {folder}")
        peer["version"] = version.read_text().strip()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        scratch = pathlib.Path(scratch)
        for name, peer in chosen.items():
            tasks = min(options.tasks or peer["tasks"], peer.get("at_most", sys.maxsize))

            for setting, words in peer["settings"].items():

                @contextlib.contextmanager
                def run_of():
                    server = OwnRedis(options.aof, scratch) if options.own_redis else OthersRedis(options.redis_port)
                    with server, Run(folder, name, peer, words, server.port, scratch) as run:
                        yield run

                line = {"peer": name, "setting": setting, "version": peer["version"], "tasks": tasks}
                try:
                    print(json.dumps(line | measure(run_of, options, tasks)), flush=True)
                except RuntimeError as error:
                    failures += 1
                    print(f"{setting}: {error}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
