//! Shapes whose numbers overflow: legal views of no memory, or of one row many times.

use crate::common::cpus;
use crate::kind::{assert_pattern, pattern};
use microseq::cpu::{CpuError, Isa};
use microseq::{
    Accumulate, Device, Gather, Host, KvMut, KvRef, Layout, Operand, RowsMut, RowsRef, ShapeError, ViewError,
};

/// Shares that repeat a row so often that their rows, added up, wrap around to those of the slot.
#[test]
fn a_gather_of_more_rows_than_can_be_counted() {
    let from = [0.0f32; 16];
    let mut into = pattern::<f32>(64);
    let many = Layout::dense(usize::MAX / 2 + 1, 2, 4).with_row_stride(0);
    let share = KvRef::packed(RowsRef::<Host, f32>::new(&from, many).unwrap()).unwrap();
    let rows = RowsMut::<Host, f32>::new(&mut into, Layout::dense(0, 2, 4)).unwrap();
    let operands = Gather { from: &[share, share], into: KvMut::packed(rows).unwrap() };
    let result = cpus::cpu(Isa::best(), 1).gather_into(operands);
    let refused = matches!(
        result,
        Err(CpuError::Shape(ShapeError::Rows { operand: Operand::From, expected: 0, given: usize::MAX }))
    );
    assert!(refused, "{result:?}");
    assert_pattern("gather", &into);
}

/// No rows, of heads so large that a row's elements cannot be counted: nothing to do.
#[test]
fn accumulating_no_rows_of_uncountable_heads() {
    let from = [0.0f32; 4];
    let mut into = pattern::<f32>(4);
    let layout = Layout::dense(0, usize::MAX - 1, usize::MAX);
    let from = KvRef::packed(RowsRef::<Host, f32>::new(&from, layout).unwrap()).unwrap();
    let rows = RowsMut::<Host, f32>::new(&mut into, layout).unwrap();
    let operands = Accumulate { from, into: KvMut::packed(rows).unwrap() };
    assert_eq!(cpus::cpu(Isa::best(), 1).accumulate(operands), Ok(()));
    assert_pattern("accumulate", &into);
}

/// A layout that no memory was checked against.
#[test]
fn narrowing_a_layout_that_overflows() {
    let layout = Layout::dense(10, 1, 1).with_row_stride(usize::MAX);
    match layout.narrow(5..6) {
        Err(ViewError::Overflow { rows: 10, row_stride: usize::MAX, .. }) => {}
        Ok(part) => {
            let memory = [0.0f32; 64];
            assert!(RowsRef::<Host, f32>::new(&memory, part).is_err(), "{part:?}");
        }
        Err(other) => panic!("{other}"),
    }
}
