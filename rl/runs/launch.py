"""Starting the ranks of a script: one process per core (or GPU), each running the same command.

Under torchrun (its environment variables are there) nothing is started: the process is a rank
already. A rank that dies ends the others within seconds, with one line; Ctrl-C reaches each rank
once; ranks whose launcher is killed end themselves. Left out: several machines (torchrun's task).

And what a rank computes in: bf16 where the machine multiplies it faster, else fp32; weights, losses
and sums are fp32 always. Left out: fp16 with loss scaling, fp8, TF32 (torch's own switch).
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import torch
import torch.distributed as dist

DTYPES = ("auto", "bf16", "fp32")
PEER_LOST = 75  # exit code of a rank that only noticed that another one is gone
NOTICE = 3.0  # seconds in which other ranks fail alike, or notice, before they are asked to
GRACE = 8.0  # seconds for a rank to end by itself before it is killed
# Huge pages. Tensors above 16 MiB are given back when they are freed, which saves memory; smaller
# ones are kept, which saves page faults. Other C libraries ignore it.
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=16777216"
MALLOC += ":glibc.malloc.trim_threshold=8589934592"
M_MMAP_THRESHOLD = -3  # of mallopt (malloc.h)
LAUNCHER = "SMARTRAG_LAUNCHER"  # environment of a rank that was started here: whose child it is


def launch(ranks: int, device: str) -> None:
    """Returns in every rank, with torch.distributed ready; the process that was typed starts them,
    waits, and exits here with their exit code. ranks: 0 = one per core, or per GPU."""
    cuda = torch.device(device).type == "cuda"
    if "RANK" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ranks = ranks or (torch.cuda.device_count() if cuda else cores)
        if ranks > 1:
            sys.exit(start(ranks))
    elif not dist.is_initialized():
        if LAUNCHER in os.environ:
            threading.Thread(target=end_with_launcher, daemon=True).start()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    if not cuda:  # small matmuls gain little by a second thread, and lose much on a busy machine
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def spare_memory() -> None:
    """Give tensors above 2 MiB back as soon as they are freed, where the C library is glibc: a
    third to a half less memory on a CPU, for more calls to the system. For --checkpointing."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2 << 20)


def end_with_launcher() -> None:
    while os.getppid() == int(os.environ[LAUNCHER]):
        time.sleep(0.1)
    os._exit(PEER_LOST)


def lost_peer(error: Exception) -> bool:
    """Whether a rank that `start` started failed only because another one is gone. It then ends
    with PEER_LOST, without a word: the other one says why."""
    said = "gloo" in str(error) or "NCCL" in str(error)
    return LAUNCHER in os.environ and (isinstance(error, dist.DistError) or said)


def leave(code: int) -> None:
    """End a rank at once. Python's way takes the process group apart, which aborts the process now
    and then (SIGABRT), even after a success. Does nothing where there is one process."""
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(count: int) -> int:
    """Run `count` ranks of this process's own command to their end; the exit code."""
    # The launcher is where the ranks meet: a port that was only looked up may be taken by now.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"GLIBC_TUNABLES": MALLOC} | os.environ
    environment |= {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        LAUNCHER: str(os.getpid()),
    }
    processes: list[subprocess.Popen] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: send(processes, number))
    errors = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115  this process ends soon
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        # Rank 0 alone is heard while it runs.
        output = {"stdout": subprocess.DEVNULL, "stderr": errors[rank]} if rank else {}
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=environment | own,
            start_new_session=True,  # a terminal's Ctrl-C comes here, and is sent on once
            **output,
        )
        processes.append(process)
    return wait(processes, errors)


def send(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def wait(processes: list[subprocess.Popen], errors: list) -> int:
    """Wait for all ranks; once one has failed, the others have GRACE seconds. The exit code of the
    rank that failed first for a reason of its own, which is said in one line if rank 0 did not."""
    failed_at = None
    while any(process.poll() is None for process in processes):
        if failed_at is None and any(process.poll() for process in processes):
            failed_at = time.monotonic()
        waited = 0.0 if failed_at is None else time.monotonic() - failed_at
        if waited > NOTICE:
            send(processes, signal.SIGTERM if waited < GRACE else signal.SIGKILL)
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    # Who failed for a reason of its own, else who was asked to end, else the first.
    alike = (0, PEER_LOST, -signal.SIGTERM)
    rank = min(range(len(codes)), key=lambda i: (codes[i] in alike, codes[i] != -signal.SIGTERM))
    code, which = codes[rank], f"rank {rank} of {len(codes)}"
    if code < 0:
        print(f"error: {which} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        return 128 - code
    if code == PEER_LOST:
        print("error: the ranks lost each other", file=sys.stderr)
    elif code and rank:
        errors[rank].seek(0)
        said = errors[rank].read().decode(errors="replace").strip()
        print(said or f"error: {which} ended with exit code {code}", file=sys.stderr)
    return code


def precision(device: str, dtype: str) -> torch.autocast:
    """The autocast of one forward pass: bf16 multiplications, fp32 master weights and losses."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16")


def choose_dtype(name: str, device: str) -> str:
    """ "bf16" or "fp32": `name` itself unless it is "auto". Auto is bf16 on CUDA and on a CPU with
    AMX; others multiply it more slowly (AVX-512: 101 against 170 GFLOP/s)."""
    if name != "auto":
        return name
    fast = torch.device(device).type == "cuda" or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"
