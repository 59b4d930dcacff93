"""Tables in mapped files: shared without a copy, larger than memory, trained in place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import myemb
from myemb import disk

F8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SAVED = {
    "words.weight": torch.randn(30, 7),
    "half": torch.randn(5, 4).half(),
    "bf16": torch.randn(5, 2, 2).bfloat16(),
    **{str(dtype): torch.randn(6, 3).to(dtype) for dtype in F8},
    "ids": torch.arange(3),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4),
}


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def mapping_of(tensor: Tensor) -> str:
    """The line of /proc/self/maps that a tensor's memory is in."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line
    raise AssertionError("no memory")


@pytest.fixture
def values() -> Tensor:
    return torch.randn(40, 6)


@pytest.fixture
def file(tmp_path: Path, values: Tensor) -> Path:
    path = tmp_path / "table.bin"
    path.write_bytes(bits(values))
    return path


# ---- Mapping -------------------------------------------------------------------------------------


def test_a_mapping_is_the_file(file: Path, values: Tensor) -> None:
    table = disk.map_file(file, (40, 6))
    assert torch.equal(table, values)
    assert mapping_of(table).endswith(str(file))
    rest = disk.map_file(file, (20, 2), torch.float64, offset=16)
    assert bits(rest) == bits(values)[16 : 16 + 320]


def test_mode_r_never_writes_the_file(file: Path, values: Tensor) -> None:
    file.chmod(0o444)
    table = disk.map_file(file, (40, 6), mode="r")
    table[3] = 7
    assert table[3].tolist() == [7] * 6
    disk.flush(table)
    assert file.read_bytes() == bits(values)
    assert torch.equal(disk.map_file(file, (40, 6)), values)


def test_mode_r_plus_writes_the_file(file: Path, values: Tensor) -> None:
    other = disk.map_file(file, (40, 6))
    table = disk.map_file(file, (40, 6), mode="r+")
    table[3] = values[3] = 7
    disk.flush(table)
    assert file.read_bytes() == bits(values)
    assert torch.equal(other, values)


def test_mode_w_plus_makes_a_file_of_zeros(file: Path) -> None:
    table = disk.map_file(file, (100, 3), torch.bfloat16, mode="w+")
    assert torch.equal(table, torch.zeros(100, 3, dtype=torch.bfloat16))
    table[99] = 1
    assert file.read_bytes() == bits(table)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mode": "a"}, "mode has to be one of r, r[+], w[+] but got 'a'"),
        ({"shape": (41, 6)}, "has 960 bytes, but 984 are needed"),
        ({"offset": 4}, "has 960 bytes, but 964 are needed"),
        ({"offset": 2}, "offset 2 is not a multiple of 4"),
        ({"offset": -4}, "offset -4 is not a multiple"),
        ({"shape": (-1, 6)}, "a size of .-1, 6. is negative"),
    ],
)
def test_a_mapping_that_is_refused(file: Path, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        disk.map_file(file, **({"shape": (40, 6)} | arguments))
    assert file.stat().st_size == 960


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.map_file(tmp_path / "no", (1, 1), mode="r+")
    assert not (tmp_path / "no").exists()


def test_a_mapping_of_nothing(file: Path) -> None:
    assert disk.map_file(file, (0, 6)).shape == (0, 6)
    assert disk.map_file(file.with_name("new"), (0, 6), mode="w+").shape == (0, 6)


def test_the_memory_lives_as_long_as_a_view(file: Path, values: Tensor) -> None:
    row = disk.map_file(file, (40, 6))[7]
    assert torch.equal(row, values[7])
    assert str(file) in Path("/proc/self/maps").read_text()
    del row
    assert str(file) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_npy(tmp_path: Path, dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(60).reshape(20, 3), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    table = disk.map_npy(tmp_path / "a.npy", mode="r+")
    assert torch.equal(table, torch.from_numpy(array))
    assert mapping_of(table).endswith("a.npy")
    table[2, 1] = 99
    assert np.load(tmp_path / "a.npy")[2, 1] == 99


def test_npy_that_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", np.ones(3))
    np.save(tmp_path / "swapped.npy", np.ones(3, ">f4"))
    with pytest.raises(ValueError, match="objects"):
        disk.map_npy(tmp_path / "objects.npy")
    with pytest.raises(ValueError, match="npy file of one array"):
        disk.map_npy(tmp_path / "many.npz")
    with pytest.raises((ValueError, TypeError), match="byte order"):
        disk.map_npy(tmp_path / "swapped.npy")
    with pytest.raises(ValueError, match=r"mode has to be one of r, r\+ but got 'w\+'"):
        disk.map_npy(tmp_path / "swapped.npy", mode="w+")  # type: ignore[arg-type]


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(SAVED, path, metadata={"words.weight": "30 words"})
    mapped = disk.map_safetensors(path)
    assert mapped.keys() == SAVED.keys()
    for name, tensor in SAVED.items():
        assert (mapped[name].dtype, mapped[name].shape) == (tensor.dtype, tensor.shape)
        assert not tensor.numel() or bits(mapped[name]) == bits(tensor)
        assert not tensor.numel() or mapping_of(mapped[name]).endswith(str(path))
    assert Path("/proc/self/maps").read_text().count(str(path)) == 1
    disk.map_safetensors(path, mode="r+")["words.weight"][4] = 1
    assert mapped["words.weight"][4].tolist() == [1] * 7


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"", "a header of 2 bytes in a file of 8"),
        (b"[]", "not a safetensors file"),
        (b"{]", "not a safetensors file"),
        (b'{"a": 3}', "tensor 'a'"),
        (b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', "no dtype F4"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "does not take bytes"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 4]}}', "is negative"),
        (b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', "are needed"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}', "not a multiple of 4"),
        (
            b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}}',
            "does not take bytes -1",
        ),
        (b'{"a": {"dtype": "U8", "shape": [1.5], "data_offsets": [0, 2]}}', "tensor 'a'"),
    ],
)
def test_a_file_of_another_format(tmp_path: Path, header: bytes, text: str) -> None:
    header += b" " * (-len(header) % 8)
    length = len(header) or 2
    data = bytes(8) if header else b""
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + header + data)
    with pytest.raises(ValueError, match=text):
        disk.map_safetensors(tmp_path / "a")


# ---- Modules on mappings -------------------------------------------------------------------------


def test_from_pretrained_shares_the_mapping(file: Path, values: Tensor) -> None:
    indices = torch.randint(40, (9, 3))
    for kind in ("Embedding", "EmbeddingBag"):
        ours = getattr(myemb.nn, kind).from_pretrained(disk.map_file(file, (40, 6)))
        theirs = getattr(torch.nn, kind).from_pretrained(values)
        assert mapping_of(ours.weight).endswith(str(file))
        torch.testing.assert_close(ours(indices), theirs(indices))


def test_mappings_of_numpy_and_torch_are_shared(file: Path, values: Tensor) -> None:
    indices = torch.randint(40, (9, 3))
    writable = np.memmap(file, np.float32, "r+", shape=(40, 6))
    for mapped in (
        torch.from_numpy(writable),
        torch.from_file(str(file), shared=True, size=240).view(40, 6),
    ):
        table = myemb.nn.Embedding.from_pretrained(mapped)
        assert mapping_of(table.weight).endswith(str(file))
        assert torch.equal(table(indices), values[indices])


def test_load_state_dict_assigns_mappings(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"words.weight": SAVED["words.weight"]}, path)
    model = torch.nn.ModuleDict({"words": myemb.nn.Embedding(30, 7, device="meta")})
    model.load_state_dict(disk.map_safetensors(path), assign=True)
    assert mapping_of(model["words"].weight).endswith(str(path))
    assert torch.equal(model["words"](torch.tensor([3])), SAVED["words.weight"][3:4])


def test_many_tables_of_a_file_are_trained_in_one_call(tmp_path: Path) -> None:
    tables = [myemb.nn.Table(30, 8, name="a"), myemb.nn.Table(20, 4, name="b")]
    batch = {"a": torch.randint(30, (5, 3)), "b": torch.randint(20, (5, 3))}
    in_memory = myemb.nn.EmbeddingBagCollection(tables)
    path = tmp_path / "model.safetensors"
    save_file(in_memory.state_dict(), path)
    with torch.device("meta"):
        mapped = myemb.nn.EmbeddingBagCollection(tables)
    mapped.load_state_dict(disk.map_safetensors(path, mode="r+"), assign=True)
    upstream = torch.randn(5, 12)
    for collection in (in_memory, mapped):
        optimizer = myemb.optim.SGD(collection.parameters(), lr=0.1)
        myemb.optim.fuse_in_backward(optimizer, collection)
        collection(batch).backward(upstream)
    for name, tensor in disk.map_safetensors(path).items():
        assert torch.equal(tensor, in_memory.state_dict()[name])


@pytest.mark.parametrize("dtype", F8, ids=str)
def test_lookup_in_eight_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file(SAVED, tmp_path / "a")
    table = disk.map_safetensors(tmp_path / "a")[str(dtype)]
    indices = torch.tensor([5, 0, 5])
    rows = myemb.functional.embedding(indices, table)
    assert bits(rows) == b"".join(bits(SAVED[str(dtype)][i]) for i in indices.tolist())


def test_max_norm_scales_rows_of_the_file(file: Path, values: Tensor) -> None:
    table = disk.map_file(file, (40, 6), mode="r+")
    ours = myemb.nn.Embedding.from_pretrained(table, max_norm=0.5)
    theirs = torch.nn.Embedding.from_pretrained(values, max_norm=0.5)
    indices = torch.tensor([1, 30, 1])
    torch.testing.assert_close(ours(indices), theirs(indices))
    torch.testing.assert_close(disk.map_file(file, (40, 6)), values)


OPTIMIZERS = {
    "SGD": [],
    "Adagrad": ["sum"],
    "RowWiseAdagrad": ["sum"],
    "Adam": ["exp_avg", "exp_avg_sq"],
    "AdamW": ["exp_avg", "exp_avg_sq"],
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_in_files(name: str, file: Path, values: Tensor) -> None:
    def train(table: Tensor, in_files: bool) -> tuple[Tensor, dict[str, Any]]:
        bags = myemb.nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum")
        optimizer = getattr(myemb.optim, name)(bags.parameters(), lr=0.1)
        if in_files:
            state = optimizer.state[bags.weight]
            for key in OPTIMIZERS[name]:
                shape = (40,) if name == "RowWiseAdagrad" else (40, 6)
                state[key] = disk.map_file(file.with_name(key), shape, mode="w+")
        myemb.optim.fuse_in_backward(optimizer, bags)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            output = bags(torch.randint(40, (5, 2), generator=generator))
            output.backward(torch.randn(output.shape, generator=generator))
        return bags.weight.detach(), optimizer.state[bags.weight]

    expected, states = train(values.clone(), in_files=False)
    trained, mapped = train(disk.map_file(file, (40, 6), mode="r+"), in_files=True)
    assert torch.equal(disk.map_file(file, (40, 6)), expected)
    assert mapping_of(trained).endswith(str(file))
    resumed = getattr(myemb.optim, name)([torch.nn.Parameter(trained)], lr=0.1)
    resumed.load_state_dict({**resumed.state_dict(), "state": {0: mapped}})
    for key in OPTIMIZERS[name]:
        assert mapping_of(mapped[key]).endswith(key)
        (again,) = resumed.state.values()
        assert again[key].data_ptr() == mapped[key].data_ptr()
        assert file.with_name(key).read_bytes() == bits(states[key])


# ---- All of it -----------------------------------------------------------------------------------


def test_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).parents[2].joinpath("docs", "disk.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    sums = torch.from_file("sum.bin", size=10_000_000)
    rows = torch.cat(names["batches"]).unique()
    assert torch.equal(sums.nonzero().squeeze(1), rows)
    table = torch.from_file("table.bin", size=640_000_000).view(-1, 64)
    assert (table[rows] > 0).all()


def test_larger_than_memory(tmp_path: Path) -> None:
    """In a process that may have 256 MiB of its own: see larger_than_memory.py."""
    program = Path(__file__).with_name("larger_than_memory.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
