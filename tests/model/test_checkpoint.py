"""Checkpoints: equal to the bit, refused with the file's name when damaged, and never half-
written."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model import CheckpointError, Policy, save_policy
from model.files import write_json
from model.pretrained import open_policy
from rl.runs import state
from rl.runs.state import load_state, save_state

from .tiny import tiny_config, tiny_policy, tiny_tokenizer

FILES = {
    "config.json",
    "model.safetensors",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "value_head.safetensors",
}
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "runs" / "sft"
    save_policy(directory, tiny_policy(), TOKENIZER, {"script": "test"})
    return directory


def bits(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def torn_save_file(tensors, path, metadata=None):
    """What safetensors does on a full disk: half a file, and an error of its own class."""
    Path(path).write_bytes(b"\x10\x00\x00")
    raise SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


# -------------------------------------------------------------------------------------- policies


def test_a_policy_comes_back_to_the_bit(saved):
    policy, tokenizer, run = open_policy(saved)
    assert set(bits(saved)) == FILES and run == {"script": "test"}
    expected = tiny_policy()
    assert policy.config == expected.config and not policy.training
    assert policy.state_dict().keys() == expected.state_dict().keys()
    assert all(
        torch.equal(tensor, expected.state_dict()[name])
        for name, tensor in policy.state_dict().items()
    )
    assert tokenizer.backend.to_str() == TOKENIZER.backend.to_str()
    fields = json.loads((saved / "config.json").read_text())
    assert (fields["pad_token_id"], fields["bos_token_id"], fields["eos_token_id"]) == (
        TOKENIZER.pad,
        TOKENIZER.bos,
        TOKENIZER.eos,
    )


def test_saving_over_a_checkpoint_replaces_all_of_it(saved, tmp_path):
    save_policy(saved, tiny_policy(seed=1), TOKENIZER, {})
    save_policy(tmp_path / "fresh", tiny_policy(seed=1), TOKENIZER, {})
    assert bits(saved) == bits(tmp_path / "fresh")


def test_what_a_killed_save_left_does_not_disturb_the_next(saved, tmp_path):
    (saved / "staging.partial").mkdir()
    (saved / "staging.partial" / "model.safetensors").write_bytes(b"half")
    assert open_policy(saved)[2] == {"script": "test"}
    save_policy(saved, tiny_policy(), TOKENIZER, {})
    assert set(bits(saved)) == FILES


def test_a_foreign_value_head_is_absent_and_zero(saved):
    (saved / "value_head.safetensors").unlink()
    assert torch.equal(
        open_policy(saved)[0](torch.zeros(1, 5, dtype=torch.long))[1], torch.zeros(1, 5)
    )


def edited(change):
    """A damage that rewrites model.safetensors with changed tensors."""

    def damage(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return damage


NORM = "model.norm.weight"
DAMAGES = {
    "missing": (Path.unlink, "not found"),
    "empty": (lambda path: path.write_bytes(b""), "not readable here"),
    "cut in the tensors": (
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "not readable here",
    ),
    "cut in the header": (
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        "not readable here",
    ),
    "corrupt header": (
        lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
        "not readable here",
    ),
    "a pickle": (lambda path: torch.save({"a": torch.zeros(3)}, path), "not readable here"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "not readable here"),
    "lacking a tensor": (edited(lambda tensors: tensors.pop(NORM)), f"missing tensor '{NORM}'"),
    "with a strange tensor": (
        edited(lambda tensors: tensors.update(extra=torch.zeros(1))),
        "unknown tensor 'extra'",
    ),
    "renamed tensors": (
        edited(lambda tensors: tensors.update({"transformer.ln_f": tensors.pop(NORM)})),
        "tensor '",
    ),
    "mis-shaped": (
        edited(lambda tensors: tensors.update({NORM: torch.ones(33)})),
        f"'{NORM}' has shape [33], expected [32]",
    ),
    "transposed": (
        edited(lambda tensors: tensors.update({NORM: torch.ones(1, 32)})),
        f"'{NORM}' has shape [1, 32], expected [32]",
    ),
    "NaN": (
        edited(lambda tensors: tensors[NORM].__setitem__(3, float("nan"))),
        f"'{NORM}' holds NaN or infinite weights",
    ),
    "infinite": (
        edited(lambda tensors: tensors[NORM].__setitem__(3, float("-inf"))),
        f"'{NORM}' holds NaN or infinite weights",
    ),
}


@pytest.mark.parametrize(
    "damage, problem", DAMAGES.values(), ids=[name.replace(" ", "-") for name in DAMAGES]
)
def test_damaged_weights_are_refused_by_name(saved, damage, problem):
    path = saved / "model.safetensors"
    damage(path)
    with pytest.raises(CheckpointError) as error:
        open_policy(saved)
    assert (
        str(error.value).startswith(f"{path}: ")
        and problem in str(error.value)
        and "\n" not in str(error.value)
    )


def test_a_tied_head_that_was_written_twice_is_accepted(saved):
    edited(
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        )
    )(saved / "model.safetensors")
    assert torch.equal(
        open_policy(saved)[0].model.embed_tokens.weight, tiny_policy().model.embed_tokens.weight
    )


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_damaged_value_head_is_refused_by_name(saved, content):
    (saved / "value_head.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"value_head.safetensors: not readable here"):
        open_policy(saved)


def test_a_value_head_of_another_width_is_refused_by_name(saved):
    save_file(
        tiny_policy(tiny_config(hidden_size=64)).value_head.state_dict(),
        saved / "value_head.safetensors",
    )
    with pytest.raises(
        CheckpointError,
        match=r"value_head.safetensors: 'up.weight' has shape \[96, 192\], expected \[96, 96\]",
    ):
        open_policy(saved)


def test_other_refusals(saved, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint directory"):
        open_policy(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"empty: no checkpoint here \(config.json not found\)"
    ):
        open_policy(tmp_path / "empty")
    (saved / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run.json: not readable here"):
        open_policy(saved)
    (saved / "run.json").unlink()
    assert open_policy(saved)[2] == {}
    (saved / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not found"):
        open_policy(saved)


def test_a_tokenizer_bigger_than_the_embedding_is_refused(tmp_path):
    save_policy(tmp_path, tiny_policy(tiny_config(vocab_size=len(TOKENIZER) - 1)), TOKENIZER, {})
    with pytest.raises(
        CheckpointError,
        match=rf"tokenizer.json: {len(TOKENIZER)} tokens do not fit the "
        rf"{len(TOKENIZER) - 1} rows of the embedding",
    ):
        open_policy(tmp_path)
    save_policy(tmp_path, tiny_policy(tiny_config(vocab_size=len(TOKENIZER))), TOKENIZER, {})
    assert open_policy(tmp_path)[0].config.vocab_size == len(TOKENIZER)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "value_head.down.bias"])
def test_nan_weights_are_not_saved(saved, name):
    before = bits(saved)
    broken = tiny_policy(seed=1)
    broken.state_dict()[name].view(-1)[0] = float("nan")
    with pytest.raises(FloatingPointError, match=f"^{name} holds NaN"):
        save_policy(saved, broken, TOKENIZER, {})
    with pytest.raises(FloatingPointError):
        save_policy(saved.parent / "other", broken, TOKENIZER, {})
    assert bits(saved) == before and not (saved.parent / "other").exists()


def test_a_full_disk_leaves_the_old_policy(saved, monkeypatch):
    before = bits(saved)
    for target, name, failure in (
        (os, "replace", full_disk),
        ("model.files.save_file", None, torn_save_file),
        (Path, "write_text", full_disk),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*(x for x in (target, name) if x), failure)
            with pytest.raises(OSError, match="No space left"):
                save_policy(saved, tiny_policy(seed=1), TOKENIZER, {})
        assert bits(saved) == before and not (saved / "staging.partial").exists()
    open_policy(saved)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("moved", range(12))  # six old files out, six new ones in
def test_a_failure_between_two_renames_leaves_the_old_policy(saved, monkeypatch, moved, error):
    before, replace, calls = bits(saved), os.replace, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == moved + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(type(error)):
        save_policy(saved, tiny_policy(seed=1), TOKENIZER, {})
    assert bits(saved) == before and not (saved / "staging.partial").exists()


def test_a_kill_at_any_moment_leaves_the_old_policy_the_new_one_or_none(
    saved, tmp_path, monkeypatch
):
    """Never weights of one save beside the value head of another. A kill runs no clean-up, so none
    runs here."""
    save_policy(tmp_path / "new", tiny_policy(seed=1), TOKENIZER, {})
    old, new, replace, seen = bits(saved), bits(tmp_path / "new"), os.replace, []

    def watched(source, target):
        replace(source, target)
        if (saved / "config.json").exists():
            seen.append(
                {name: content for name, content in bits(saved).items() if "staging" not in name}
            )

    monkeypatch.setattr(os, "replace", watched)
    save_policy(saved, tiny_policy(seed=1), TOKENIZER, {})
    assert seen == [new] and new != old


class Order:
    """Records file operations below a directory in their order, by names relative to it."""

    def __init__(self, monkeypatch, root: Path):
        self.calls, self.root, self.names = [], root, {}
        for name, paths in (("fsync", 0), ("replace", 2), ("unlink", 1), ("rmdir", 1)):
            monkeypatch.setattr(os, name, self.recorded(name, getattr(os, name), paths))
        opened = os.open

        def open_(path, *args, **more):
            descriptor = opened(path, *args, **more)
            self.names[descriptor] = path
            return descriptor

        monkeypatch.setattr(os, "open", open_)

    def short(self, path) -> str:
        return os.path.relpath(path, self.root)

    def recorded(self, name, real, paths):
        def call(*args, **more):
            if paths:
                named = [str(Path(self.names.get(more.get("dir_fd"), ""), p)) for p in args[:paths]]
            else:
                named = [self.names[args[0]]]
            self.calls.append((name, *map(self.short, named)))
            return real(*args, **more)

        return call

    def __call__(self, *call) -> int:
        assert call in self.calls, (call, self.calls)
        return self.calls.index(call)


def test_nothing_old_goes_before_the_new_is_durable(saved, monkeypatch):
    """A power cut at any moment: every file is flushed before the first rename, and the directory
    before the old files are deleted."""
    order = Order(monkeypatch, saved)
    save_policy(saved, tiny_policy(seed=1), TOKENIZER, {})
    renames = [call for call in order.calls if call[0] == "replace"]
    assert renames[0] == ("replace", "config.json", "staging.partial/old.config.json")
    assert renames[-1] == ("replace", "staging.partial/config.json", "config.json")
    for name in FILES:
        assert order("fsync", f"staging.partial/{name}") < order(*renames[0])
        moved = ("replace", f"staging.partial/{name}", name)
        assert ("fsync", ".") in order.calls[order(*moved) : order(*moved) + 2]
        assert order(*renames[-1]) + 1 < order("unlink", f"staging.partial/old.{name}")


def test_one_file_is_durable_before_it_is_in_place(tmp_path, monkeypatch):
    order = Order(monkeypatch, tmp_path)
    write_json(tmp_path / "a.json", {})
    save_state(tmp_path, {"policy": tiny_policy()}, {}, {}, {})
    for name in ("a.json", state.STATE_FILE):
        own = f"{name}.{os.getpid()}.partial"
        at = order("fsync", own)
        after = [("replace", own, name), ("fsync", ".")]
        assert order.calls[at + 1 : at + 3] == after


def test_files_have_the_users_permissions(saved):
    (saved / "mine").touch()
    save_state(saved, {"policy": tiny_policy()}, {}, {}, {})
    modes = {path.name: path.stat().st_mode for path in saved.iterdir() if path.is_file()}
    assert set(modes.values()) == {modes["mine"]} and len(modes) == len(FILES) + 2


# ------------------------------------------------------------------------------------ one file


def test_write_json_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    for target, name in ((os, "replace"), (Path, "write_text"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full_disk)
            with pytest.raises(OSError, match="No space left"):
                write_json(path, {"new": 2})
        assert bits(tmp_path) == {"a.json": b'{\n "old": 1\n}\n'}
    write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}


# ------------------------------------------------------------------------------- training states


def optimizers_of(policy: Policy) -> dict[str, torch.optim.Optimizer]:
    """As train_sft.py and train_ppo.py use them."""
    hidden = [p for p in policy.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in policy.model.parameters() if not any(p is h for h in hidden)]
    return {
        "muon": torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0),
        "adamw": torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0),
        "value": torch.optim.AdamW(policy.value_head.parameters(), lr=2e-3),
    }


def train(policy: Policy, optimizers: dict, first: int, last: int) -> None:
    """Steps first .. last - 1, each a pure function of its number."""
    for step in range(first, last):
        tokens = torch.randint(320, (2, 12), generator=torch.Generator().manual_seed(step))
        logits, values = policy(tokens)
        (
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            + (values - 1).square().mean()
        ).backward()
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def test_going_on_from_a_state_gives_the_bits_of_not_stopping(tmp_path):
    through = tiny_policy()
    train(through, optimizers_of(through), 0, 6)

    stopped = tiny_policy()
    optimizers = optimizers_of(stopped)
    train(stopped, optimizers, 0, 3)
    features = [torch.randn(4, 3).bfloat16() for _ in range(11)]
    buffers = {"features": features, "bits": [torch.tensor([1, 0], dtype=torch.uint8)]}
    buffers |= {"empty": [torch.zeros(0)], "none": []}
    save_state(tmp_path, {"policy": stopped}, optimizers, buffers, {"step": 3, "beta": 0.1})

    resumed = tiny_policy(seed=9)
    fresh = optimizers_of(resumed)
    filled = {name: [] for name in buffers}
    facts = load_state(tmp_path, {"policy": resumed}, fresh, filled)
    assert facts == {"step": 3, "beta": 0.1}
    for name, kept in buffers.items():
        for mine, saved in zip(filled[name], kept, strict=True):
            assert torch.equal(mine, saved) and mine.dtype == saved.dtype
    train(resumed, fresh, facts["step"], 6)
    for name, tensor in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name

    forgetful = tiny_policy(
        seed=9
    )  # the test can tell: without the optimizers' moments the bits differ
    load_state(tmp_path, {"policy": forgetful}, optimizers_of(tiny_policy()), {})
    train(forgetful, optimizers_of(forgetful), 3, 6)
    assert not torch.equal(forgetful.model.embed_tokens.weight, through.model.embed_tokens.weight)


def test_a_state_before_the_first_step(tmp_path):
    policy, other = tiny_policy(), tiny_policy(seed=1)
    save_state(tmp_path, {"policy": policy}, optimizers_of(policy), {}, {"step": 0})
    optimizers = optimizers_of(other)
    assert load_state(tmp_path, {"policy": other}, optimizers, {}) == {"step": 0}
    train(policy, optimizers_of(policy), 0, 2)
    train(other, optimizers, 0, 2)
    assert all(
        torch.equal(tensor, other.state_dict()[name])
        for name, tensor in policy.state_dict().items()
    )


def test_the_state_is_a_copy(tmp_path):
    """Saving does not alias what training goes on to change."""
    policy = tiny_policy()
    save_state(tmp_path, {"policy": policy}, {}, {}, {})
    policy.model.norm.weight.data.zero_()
    again = tiny_policy(seed=1)
    load_state(tmp_path, {"policy": again}, {}, {})
    assert torch.equal(again.model.norm.weight, tiny_policy().model.norm.weight)


def test_a_full_disk_leaves_the_old_state(tmp_path, monkeypatch):
    policy = tiny_policy()
    save_state(tmp_path, {"policy": policy}, optimizers_of(policy), {}, {"step": 1})
    before = bits(tmp_path)
    assert set(before) == {state.STATE_FILE}
    for target, name, failure in (
        (os, "replace", full_disk),
        (os, "fsync", full_disk),
        (state, "save_file", torn_save_file),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, failure)
            with pytest.raises(OSError, match="No space left"):
                save_state(tmp_path, {"policy": tiny_policy(seed=1)}, {}, {}, {"step": 2})
        assert bits(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[:-10],
        lambda b: b[:30],
        lambda b: b"\xff" * 8 + b[8:],
        lambda b: b"{}" * 50,
    ],
)
def test_a_damaged_state_is_refused_by_name(tmp_path, damage):
    policy = tiny_policy()
    save_state(tmp_path, {"policy": policy}, {}, {}, {"step": 1})
    path = tmp_path / state.STATE_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as error:
        load_state(tmp_path, {"policy": policy}, {}, {})
    said = str(error.value)
    assert said.startswith(f"{path}: not a readable state of this run") and "\n" not in said


@pytest.mark.parametrize("metadata", [None, {"facts": "{"}, {"facts": "[1]"}, {"facts": "5"}])
def test_a_foreign_state_is_refused_by_name(tmp_path, metadata):
    path = tmp_path / state.STATE_FILE
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=f"{path}: not a readable state of this run"):
        load_state(tmp_path, {}, {}, {})


@pytest.mark.parametrize(
    "shape", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}]
)
def test_a_state_of_another_model_is_refused_by_name(tmp_path, shape):
    policy = tiny_policy(tiny_config(**shape))
    save_state(tmp_path, {"policy": policy}, {}, {}, {})
    with pytest.raises(
        CheckpointError, match=f"{state.STATE_FILE}: not a readable state of this policy"
    ):
        load_state(tmp_path, {"policy": tiny_policy()}, {}, {})
