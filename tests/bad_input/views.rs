//! Views that do not fit their memory, or themselves.

use crate::kind::{Kind, assert_pattern, pattern};
use microseq::{Host, KvMut, KvRef, Layout, RowsMut, RowsRef, ViewError};

/// Elements of the memory under every view here.
const LEN: usize = 60;

/// A layout refused to read and to write.
fn refused(name: &str, layout: Layout, expected: ViewError) -> Vec<Kind> {
    let mut memory = pattern::<f32>(LEN);
    let read = RowsRef::<Host, f32>::new(&memory, layout).err();
    let write = RowsMut::<Host, f32>::new(&mut memory, layout).err();
    assert_eq!(read, write, "{name}: refused to read and to write alike");
    assert_pattern(name, &memory);
    vec![Kind::new(name, read.map_or(Ok(()), Err), expected)]
}

/// A layout that may be read but not written.
fn not_to_write(name: &str, layout: Layout) -> Vec<Kind> {
    let mut memory = pattern::<f32>(LEN);
    assert!(RowsRef::<Host, f32>::new(&memory, layout).is_ok(), "{name}: to read");
    let expected = ViewError::Overlap {
        rows: layout.rows(),
        row_stride: layout.row_stride(),
        heads: layout.heads(),
        head_stride: layout.head_stride(),
        head_dim: layout.head_dim(),
    };
    let result = RowsMut::<Host, f32>::new(&mut memory, layout).map(|_| ());
    assert_pattern(name, &memory);
    vec![Kind::new(name, result, expected)]
}

pub(crate) fn kinds() -> Vec<Kind> {
    [shapes(), bounds(), overflows(), overlaps(), narrowed(), pairs()].concat()
}

fn shapes() -> Vec<Kind> {
    [
        refused("a view of no heads", Layout::dense(5, 0, 4), ViewError::ZeroHeads),
        refused("a view of head_dim 0", Layout::dense(5, 3, 0), ViewError::ZeroHeadDim),
    ]
    .concat()
}

fn bounds() -> Vec<Kind> {
    let out = |needed| ViewError::OutOfBounds { needed, given: LEN };
    let dense = Layout::dense(5, 3, 4);
    [
        refused("a row too many", Layout::dense(6, 3, 4), out(72)),
        refused("an offset too far", dense.with_offset(1), out(61)),
        refused("an empty view behind the memory", Layout::dense(0, 3, 4).with_offset(62), out(62)),
        refused("a row stride too wide", dense.with_row_stride(13), out(64)),
        refused("a head stride too wide", dense.with_head_stride(5), out(4 * 12 + 2 * 5 + 4)),
        refused("an lse of more rows", Layout::lse(4, 17), out(68)),
    ]
    .concat()
}

fn overflows() -> Vec<Kind> {
    let max = usize::MAX;
    let overflow = |layout: Layout| ViewError::Overflow {
        offset: layout.offset(),
        rows: layout.rows(),
        row_stride: layout.row_stride(),
        heads: layout.heads(),
        head_stride: layout.head_stride(),
    };
    let cases = [
        ("rows times stride overflow", Layout::dense(3, 1, 4).with_row_stride(max / 2 + 1)),
        ("heads times stride overflow", Layout::dense(1, 3, 4).with_head_stride(max)),
        ("rows and heads together overflow", {
            Layout::dense(2, 2, 4).with_row_stride(max / 2 + 1).with_head_stride(max / 2 + 1)
        }),
        ("an offset that overflows", Layout::dense(2, 1, 4).with_offset(max - 4)),
        ("a last head that overflows", Layout::dense(1, 1, 4).with_offset(max - 3)),
        ("a shape that overflows", Layout::dense(max, max, max)),
    ];
    cases.into_iter().flat_map(|(name, layout)| refused(name, layout, overflow(layout))).collect()
}

fn overlaps() -> Vec<Kind> {
    let dense = Layout::dense(3, 2, 4);
    [
        not_to_write("rows in one place", dense.with_row_stride(0)),
        not_to_write("heads in one place", dense.with_head_stride(0)),
        not_to_write("rows that overlap by one", dense.with_row_stride(7)),
        not_to_write("heads that overlap by one", dense.with_head_stride(3).with_row_stride(12)),
        not_to_write("heads of rows that overlap by one", dense.with_row_stride(4).with_head_stride(11)),
        not_to_write("an lse whose heads share rows", Layout::lse(4, 7).with_head_stride(6)),
    ]
    .concat()
}

fn narrowed() -> Vec<Kind> {
    let memory = pattern::<f32>(LEN);
    let view = RowsRef::<Host, f32>::new(&memory, Layout::dense(5, 2, 6)).unwrap();
    let kv = KvRef::packed(view).unwrap();
    let rows = |begin, end| ViewError::Rows { begin, end, rows: 5 };
    // Ranges that end before they begin are the point.
    #[allow(clippy::reversed_empty_ranges)]
    let backward = view.narrow(3..2).map(|_| ());
    vec![
        Kind::new("a row behind the view", view.narrow(2..6).map(|_| ()), rows(2, 6)),
        Kind::new("rows far behind the view", view.narrow(7..usize::MAX).map(|_| ()), rows(7, usize::MAX)),
        Kind::new("no rows, behind the view", view.narrow(6..6).map(|_| ()), rows(6, 6)),
        Kind::new("rows that end before they begin", backward, rows(3, 2)),
        Kind::new("a K/V row behind the view", kv.narrow(0..7).map(|_| ()), rows(0, 7)),
        narrowed_to_write(),
    ]
}

fn narrowed_to_write() -> Kind {
    let name = "a K/V row behind a view to write";
    let mut memory = pattern::<f32>(LEN);
    let rows = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(5, 2, 6)).unwrap();
    let result = KvMut::packed(rows).unwrap().narrow(4..9).map(|_| ());
    assert_pattern(name, &memory);
    Kind::new(name, result, ViewError::Rows { begin: 4, end: 9, rows: 5 })
}

fn pairs() -> Vec<Kind> {
    let mut odd = vec![
        packed("packed K/V of three heads", Layout::dense(5, 3, 4)),
        packed("packed K/V of one head", Layout::dense(5, 1, 4)),
    ];
    odd.extend([
        separate("values of fewer rows", Layout::dense(4, 2, 6)),
        separate("values of fewer heads", Layout::dense(5, 1, 6)),
        separate("values of another head_dim", Layout::dense(5, 2, 5)),
    ]);
    odd
}

fn packed(name: &str, layout: Layout) -> Kind {
    let mut memory = pattern::<f32>(LEN);
    let read = KvRef::packed(RowsRef::<Host, f32>::new(&memory, layout).unwrap()).err();
    let write = KvMut::packed(RowsMut::<Host, f32>::new(&mut memory, layout).unwrap()).err();
    assert_eq!(read, write, "{name}: refused to read and to write alike");
    assert_pattern(name, &memory);
    Kind::new(name, read.map_or(Ok(()), Err), ViewError::OddPackedHeads { heads: layout.heads() })
}

/// Keys `[5, 2, 6]` with values of another shape.
fn separate(name: &str, v_layout: Layout) -> Kind {
    let k_layout = Layout::dense(5, 2, 6);
    let (mut k, mut v) = (pattern::<f32>(LEN), pattern::<f32>(LEN));
    let read = KvRef::separate(
        RowsRef::<Host, f32>::new(&k, k_layout).unwrap(),
        RowsRef::<Host, f32>::new(&v, v_layout).unwrap(),
    );
    let read = read.err();
    let write = KvMut::separate(
        RowsMut::<Host, f32>::new(&mut k, k_layout).unwrap(),
        RowsMut::<Host, f32>::new(&mut v, v_layout).unwrap(),
    );
    assert_eq!(read, write.err(), "{name}: refused to read and to write alike");
    assert_pattern(name, &k);
    assert_pattern(name, &v);
    let expected = ViewError::KvMismatch {
        k_rows: 5,
        k_heads: 2,
        k_head_dim: 6,
        v_rows: v_layout.rows(),
        v_heads: v_layout.heads(),
        v_head_dim: v_layout.head_dim(),
    };
    Kind::new(name, read.map_or(Ok(()), Err), expected)
}
