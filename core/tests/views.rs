//! Views against their elements, one by one: every small layout.

use microseq_core::{Host, KvMut, KvRef, Layout, RowsMut, RowsRef, ViewError};
use std::collections::BTreeSet;

/// Every layout of small shape and strides.
fn layouts() -> impl Iterator<Item = Layout> {
    let shapes =
        (0..4).flat_map(|rows| (0..4).flat_map(move |heads| (0..4).map(move |dim| (rows, heads, dim))));
    shapes.flat_map(|(rows, heads, head_dim)| {
        let strides = (0..10).flat_map(|row| (0..10).map(move |head| (row, head)));
        strides.flat_map(move |(row, head)| {
            let layout = Layout::dense(rows, heads, head_dim).with_row_stride(row).with_head_stride(head);
            [layout, layout.with_offset(3)]
        })
    })
}

/// Where each element lies.
fn places(layout: &Layout) -> Vec<usize> {
    let heads = (0..layout.rows()).flat_map(|row| (0..layout.heads()).map(move |head| (row, head)));
    heads.flat_map(|(row, head)| (0..layout.head_dim()).map(move |n| layout.at(row, head) + n)).collect()
}

#[test]
fn a_view_reaches_its_last_element() {
    for layout in layouts().filter(|layout| layout.heads() > 0 && layout.head_dim() > 0) {
        let needed = places(&layout).into_iter().max().map_or(layout.offset(), |last| last + 1);
        assert_eq!(layout.check(needed), Ok(()), "{layout:?}");
        if needed > 0 {
            let given = needed - 1;
            assert_eq!(layout.check(given), Err(ViewError::OutOfBounds { needed, given }), "{layout:?}");
        }
    }
}

#[test]
fn elements_to_write_share_no_place() {
    let mut accepted = 0;
    for layout in layouts().filter(|layout| layout.check(usize::MAX).is_ok()) {
        let places = places(&layout);
        let distinct = places.iter().collect::<BTreeSet<_>>().len() == places.len();
        if layout.check_distinct().is_ok() {
            assert!(distinct, "{layout:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

/// Rows of heads and heads of rows, each with or without gaps, are all that one needs.
#[test]
fn nested_layouts_may_be_written() {
    for (rows, heads, head_dim) in [(3, 2, 4), (1, 5, 1), (4, 1, 3), (0, 2, 2)] {
        for gap in 0..3 {
            let head = head_dim + gap;
            let of_heads = Layout::dense(rows, heads, head_dim).with_head_stride(head);
            let of_heads = of_heads.with_row_stride(heads * head + gap);
            assert_eq!(of_heads.check_distinct(), Ok(()), "{of_heads:?}");
            let of_rows = Layout::dense(rows, heads, head_dim).with_row_stride(head);
            let of_rows = of_rows.with_head_stride(rows * head + gap);
            assert_eq!(of_rows.check_distinct(), Ok(()), "{of_rows:?}");
        }
    }
}

#[test]
fn some_of_the_rows_are_those_rows() {
    for layout in layouts().filter(|layout| layout.check(usize::MAX).is_ok()) {
        let all = places(&layout);
        let width = layout.heads() * layout.head_dim();
        for begin in 0..=layout.rows() {
            for end in begin..=layout.rows() {
                let narrow = layout.narrow(begin..end).unwrap();
                assert_eq!(places(&narrow), all[begin * width..end * width], "{begin}..{end} of {layout:?}");
                // What fits the whole fits the part.
                let len = all.iter().max().map_or(layout.offset(), |last| last + 1);
                assert_eq!(narrow.check(len), Ok(()), "{begin}..{end} of {layout:?}");
            }
        }
    }
}

#[test]
#[allow(clippy::reversed_empty_ranges)]
fn rows_outside_are_refused() {
    let layout = Layout::dense(3, 2, 2);
    for rows in [2..4, 4..4, 2..1, 0..usize::MAX] {
        let error = ViewError::Rows { begin: rows.start, end: rows.end, rows: 3 };
        assert_eq!(layout.narrow(rows), Err(error));
    }
}

#[test]
fn views_without_heads_are_refused() {
    assert_eq!(Layout::dense(3, 0, 2).check(100), Err(ViewError::ZeroHeads));
}

#[test]
fn views_without_elements_are_refused() {
    assert_eq!(Layout::dense(3, 2, 0).check(100), Err(ViewError::ZeroHeadDim));
}

#[test]
fn offsets_that_overflow_are_refused() {
    let layout = Layout::dense(3, 2, 2);
    let huge = usize::MAX / 2 + 1;
    for layout in [
        layout.with_row_stride(huge),
        layout.with_head_stride(usize::MAX),
        layout.with_offset(usize::MAX),
        layout.with_row_stride(huge - 1).with_head_stride(2),
        Layout::dense(usize::MAX, usize::MAX, usize::MAX),
    ] {
        let error = ViewError::Overflow {
            offset: layout.offset(),
            rows: layout.rows(),
            row_stride: layout.row_stride(),
            heads: layout.heads(),
            head_stride: layout.head_stride(),
        };
        assert_eq!(layout.check(usize::MAX), Err(error), "{layout:?}");
    }
}

#[test]
fn overlapping_elements_are_refused_where_they_are_written() {
    let mut memory = [0.0f32; 64];
    let layout = Layout::dense(3, 2, 4).with_row_stride(7);
    assert!(RowsRef::<Host, f32>::new(&memory, layout).is_ok());
    let error = RowsMut::<Host, f32>::new(&mut memory, layout).err();
    let overlap = ViewError::Overlap { rows: 3, row_stride: 7, heads: 2, head_stride: 4, head_dim: 4 };
    assert_eq!(error, Some(overlap));
}

#[test]
fn packed_views_of_odd_heads_are_refused() {
    let mut memory = [0.0f32; 64];
    let layout = Layout::dense(3, 5, 2);
    let error = Some(ViewError::OddPackedHeads { heads: 5 });
    assert_eq!(KvRef::packed(RowsRef::<Host, f32>::new(&memory, layout).unwrap()).err(), error);
    assert_eq!(KvMut::packed(RowsMut::<Host, f32>::new(&mut memory, layout).unwrap()).err(), error);
}

#[test]
fn separate_views_of_two_shapes_are_refused() {
    let memory = [0.0f32; 64];
    let view = |layout| RowsRef::<Host, f32>::new(&memory, layout).unwrap();
    let k = Layout::dense(3, 2, 4);
    for v in [Layout::dense(2, 2, 4), Layout::dense(3, 1, 4), Layout::dense(3, 2, 3)] {
        let error = ViewError::KvMismatch {
            k_rows: 3,
            k_heads: 2,
            k_head_dim: 4,
            v_rows: v.rows(),
            v_heads: v.heads(),
            v_head_dim: v.head_dim(),
        };
        assert_eq!(KvRef::separate(view(k), view(v)).err(), Some(error));
    }
    assert!(KvRef::separate(view(k), view(k.with_row_stride(9))).is_ok());
}

/// Elements numbered by their place, so that a view shows where it looks.
fn numbered() -> Vec<f32> {
    (0..200).map(|n| n as f32).collect()
}

#[test]
fn packed_views_hold_keys_then_values() {
    let memory = numbered();
    let layout = Layout::dense(3, 4, 2).with_row_stride(11).with_offset(1);
    let kv = KvRef::packed(RowsRef::<Host, f32>::new(&memory, layout).unwrap()).unwrap();
    assert_eq!(kv.k().get(2, 1), [25.0, 26.0]);
    assert_eq!(kv.v().get(2, 1), [29.0, 30.0]);
    assert_eq!(kv.narrow(1..3).unwrap().v().get(1, 0), [27.0, 28.0]);
}

#[test]
fn keys_and_values_are_written_where_they_are_read() {
    for packed in [true, false] {
        let (mut memory, mut other) = (numbered(), numbered());
        let mut kv = if packed {
            let layout = Layout::dense(3, 4, 2).with_row_stride(11).with_offset(1);
            KvMut::packed(RowsMut::<Host, f32>::new(&mut memory, layout).unwrap()).unwrap()
        } else {
            let (k, v) = (Layout::dense(3, 2, 2), Layout::dense(3, 2, 2).with_row_stride(6).with_offset(5));
            let k = RowsMut::<Host, f32>::new(&mut memory, k).unwrap();
            KvMut::separate(k, RowsMut::<Host, f32>::new(&mut other, v).unwrap()).unwrap()
        };
        kv.reborrow().narrow(1..3).unwrap().key_mut(1, 1).copy_from_slice(&[-1.0, -2.0]);
        kv.value_mut(2, 0).copy_from_slice(&[-3.0, -4.0]);
        assert_eq!(kv.freeze().k().get(2, 1), [-1.0, -2.0]);
        assert_eq!(kv.freeze().v().get(2, 0), [-3.0, -4.0]);
        let written = memory.iter().chain(&other).filter(|&&x| x < 0.0).count();
        assert_eq!(written, 4);
    }
}

#[test]
#[should_panic(expected = "row 3, head 0 of a view of 3 rows, 2 heads")]
fn rows_outside_a_view_panic() {
    RowsRef::<Host, f32>::new(&numbered(), Layout::dense(3, 2, 2)).unwrap().get(3, 0);
}

#[test]
#[should_panic(expected = "row 0, head 2 of a view of 3 rows, 2 heads")]
fn heads_outside_a_view_panic() {
    RowsMut::<Host, f32>::new(&mut numbered(), Layout::dense(3, 2, 2)).unwrap().get_mut(0, 2);
}
