"""What tells whether tensors still hold what they held, by itself."""

import gc
import weakref

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.backends.watching import Watch


def test_one_number_past_torch_is_seen_where_all_are_watched() -> None:
    weight = torch.randn(40, 50)
    sample, everything = Watch([weight]), Watch([weight], all_numbers=True)
    assert sample.unchanged([weight]) and everything.unchanged([weight])
    weight.data[3, 7] += 1
    assert sample.unchanged([weight]), "the documented limit of what is watched without being asked"
    assert not everything.unchanged([weight])


def test_a_sample_sees_what_changes_many_numbers() -> None:
    for tensor in (
        torch.randn(7),
        torch.randn(64, 3, 3, 3).to(memory_format=torch.channels_last),
        torch.ones(9).bool(),
    ):
        watch = Watch([tensor])
        assert watch.unchanged([tensor])
        tensor.data.copy_(tensor.logical_not() if tensor.dtype == torch.bool else tensor + 1)
        assert not watch.unchanged([tensor])


VIEWS = [
    lambda tensor: tensor,
    lambda tensor: tensor.transpose(0, -1),
    lambda tensor: tensor[..., ::2],
    lambda tensor: tensor[1:],
    lambda tensor: tensor.flatten()[3:],
    lambda tensor: tensor[:1].expand(4, *tensor.shape[1:]),
]
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.int64, torch.bool]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_number_of_any_tensor_that_changes_is_seen(data) -> None:
    """Whatever the type, the strides and the place: past torch by what watches all numbers, else by what samples."""
    shape = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    dtype, view = data.draw(st.sampled_from(TYPES)), data.draw(st.sampled_from(VIEWS))
    tensor = view(torch.ones(*shape, 4).to(dtype))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in tensor.shape)
    sample, everything = Watch([tensor]), Watch([tensor], all_numbers=True)
    assert sample.unchanged([tensor]) and everything.unchanged([tensor])
    past_torch = data.draw(st.booleans())
    (tensor.data if past_torch else tensor)[place] = 0
    assert not everything.unchanged([tensor])
    assert past_torch or not sample.unchanged([tensor])


def test_another_object_in_the_same_memory_is_another_one() -> None:
    """It counts what is written to it by itself, from zero, and takes what is written to the first one for its own."""
    tensor = torch.ones(3)
    watch = Watch([tensor])
    assert watch.unchanged([tensor])
    assert not watch.unchanged([tensor.data]) and not watch.unchanged([tensor, tensor])


def test_watching_keeps_nothing_alive() -> None:
    tensor = torch.randn(1000)
    watch, gone = Watch([tensor]), weakref.ref(tensor)
    tensor.resize_(2000)  # the memory is still its owner's
    assert not watch.unchanged([tensor])
    del tensor
    gc.collect()
    assert gone() is None and not watch.alive
