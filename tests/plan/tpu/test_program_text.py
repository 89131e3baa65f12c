"""What is read of a compiled program's text: counted by hand."""

import pytest

from visor_jax.plan.tpu.program_text import array_bytes, read_program

# A loop of eight turns with a gathering inside a branch, a call of a kernel twice.
TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%region_0.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[] parameter(0)
  ROOT %add.1 = f32[] add(%a.1, %b.1)
}

%branch_on.2 (p.2: (f32[4,16])) -> f32[8,16] {
  %p.2 = (f32[4,16]{1,0}) parameter(0)
  %gte.2 = f32[4,16]{1,0} get-tuple-element(%p.2), index=0
  %tags_forward.5 = bf16[8,16]{1,0:T(8,128)(2,1)} custom-call(%gte.2), \
custom_call_target="tpu_custom_call"
  ROOT %all-gather.7 = f32[8,16]{1,0} all-gather(%gte.2), channel_id=1, dimensions={0}
}

%branch_off.2 (p.3: (f32[4,16])) -> f32[8,16] {
  ROOT %constant.3 = f32[8,16]{1,0} constant({...})
}

%body.4 (s.4: (s32[], f32[4,16])) -> (s32[], f32[4,16]) {
  %s.4 = (s32[], f32[4,16]{1,0}) parameter(0)
  %cond.4 = f32[8,16]{1,0} conditional(%index.4, %s.4, %s.4), \
branch_computations={%branch_off.2, %branch_on.2}
  ROOT %tuple.4 = (s32[], f32[4,16]{1,0}) tuple(%i.4, %x.4)
}

%until.4 (s.5: (s32[], f32[4,16])) -> pred[] {
  ROOT %less.5 = pred[] compare(%i.5, %n.5), direction=LT
}

ENTRY %main.9 (x.9: f32[8]) -> f32[8] {
  %x.9 = f32[8]{0} parameter(0)
  %while.9 = (s32[], f32[4,16]{1,0}) while(%tuple.9), condition=%until.4, \
body=%body.4, backend_config={"known_trip_count":{"n":"8"}}
  %tags_forward.12 = bf16[8,16]{1,0} custom-call(%x.9), \
custom_call_target="tpu_custom_call"
  %softmax.3 = f32[8]{0} custom-call(%x.9), custom_call_target="AllocateBuffer"
  %all-gather-start.1 = (f32[2,16]{1,0}, f32[4,16]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
all-gather-start(%x.9), dimensions={0}
  %all-gather-done.1 = f32[4,16]{1,0} all-gather-done(%all-gather-start.1)
  ROOT %all-reduce.9 = (f32[8]{0}, bf16[8]{0}) all-reduce(%x.9, %y.9), \
to_apply=%region_0.1
}
"""


def test_a_program_is_counted_as_often_as_its_loops_turn():
    found = read_program(TEXT)
    assert (found.conditionals, found.whiles) == (1, 1)
    # Buffers that XLA asks for are no kernels.
    assert found.kernels == {"tags_forward": 2}
    gather, reduce = found.collectives["all-gather"], found.collectives["all-reduce"]
    assert (gather.count, reduce.count) == (2, 1)
    assert gather.bytes == 8 * (8 * 16 * 4) + 4 * 16 * 4
    assert reduce.bytes == 8 * 4 + 8 * 2
    assert found.collectives.keys() == {"all-gather", "all-reduce"}
    assert found.largest == 8 * 16 * 4
    # A loop whose turns are not known counts once.
    unknown = TEXT.replace('"known_trip_count"', '"unknown"')
    assert read_program(unknown).collectives["all-gather"].bytes == 512 + 256


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[2,8]{1,0:T(8,128)}", [64]),
        ("(bf16[3,5], s32[], pred[7])", [30, 4, 7]),
        ("f8e4m3fn[10]", [10]),
        ("s4[5]", [3]),
        ("c64[2]", [16]),
        ("f32[0,4]", [0]),
    ],
)
def test_bytes_are_those_of_types_and_sides(shape, expected):
    assert array_bytes(shape) == expected
