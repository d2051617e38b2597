"""The parts of a step by name, and that benchmarks keep to the device they are told."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from bench import step

ROOT = Path(__file__).resolve().parents[1]


def test_every_kernel_of_attention_is_known_for_one():
    found = [
        name
        for file in (ROOT / "kernels").glob("attention_*.py")
        for name in re.findall(r"@triton\.jit.*\ndef ([a-z]\w+)\(", file.read_text())
    ]
    assert len(found) >= 5
    assert {step._kind(name) for name in found} == {"attention"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("triton_poi_fused__to_copy_mul_silu_3", "pointwise and norms"),
        ("triton_poi_fused_clone_1", "copies"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("aten::copy_", "copies"),
        ("nvjet_tst_128x256_64x4_1x2", "matmul"),
    ],
)
def test_what_a_kernel_does_is_read_from_its_name(name, kind):
    assert step._kind(name) == kind


@pytest.mark.parametrize("name", ["bench_attention", "bench_train"])
def test_a_gpu_is_left_alone_where_the_cpu_is_asked_for(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TINYTSM_BENCH_DEVICE", "cpu")
    assert runpy.run_path(str(ROOT / "bench" / f"{name}.py"))["ON_GPU"] is False
