//! Making views: what is accepted lies inside its memory, and views to write have no element twice.
//! Checked against arithmetic in 128 bits and a map of the memory.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use microseq::{Host, KvMut, KvRef, Layout, RowsMut, RowsRef, ViewError};

/// Rows and heads looked at of a view that has more (strides of 0 make that possible).
const MANY: usize = 64;

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Shape {
    offset: Size,
    rows: Size,
    heads: Size,
    head_dim: Size,
    /// The dense strides, where none.
    row_stride: Option<Size>,
    head_stride: Option<Size>,
}

/// A number that is more often small than chance would have it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Small(u8),
    Any(usize),
    NearMax(u8),
}

impl Size {
    fn get(self) -> usize {
        match self {
            Self::Small(n) => usize::from(n % 24),
            Self::Any(n) => n,
            Self::NearMax(n) => usize::MAX - usize::from(n),
        }
    }
}

impl Shape {
    fn layout(self) -> Layout {
        let mut layout = Layout::dense(self.rows.get(), self.heads.get(), self.head_dim.get());
        if let Some(stride) = self.row_stride {
            layout = layout.with_row_stride(stride.get());
        }
        if let Some(stride) = self.head_stride {
            layout = layout.with_head_stride(stride.get());
        }
        layout.with_offset(self.offset.get())
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    first: Shape,
    second: Shape,
    memory: u16,
    narrow: (Size, Size),
}

fuzz_target!(|input: Input| {
    let (first, second) = (input.first.layout(), input.second.layout());
    let mut memory = vec![0.0f32; usize::from(input.memory)];
    let mut other = memory.clone();
    let rows = input.narrow.0.get()..input.narrow.1.get();

    if let Some(view) = check_ref(&memory, first) {
        check_inside(&memory, view);
        match view.narrow(rows.clone()) {
            Ok(part) => {
                assert_eq!(part.layout().rows(), rows.len());
                check_inside(&memory, part);
            }
            Err(error) => assert!(
                error == ViewError::Rows { begin: rows.start, end: rows.end, rows: first.rows() }
                    && (rows.start > rows.end || rows.end > first.rows())
            ),
        }
        check_pairs(&memory, view, &other, second);
    }
    check_mut(&mut memory, first);
    check_kv_mut(&mut memory, first, &mut other, second);
});

/// One behind the last element.
fn reach(layout: &Layout) -> u128 {
    let wide = |n: usize| n as u128;
    if layout.rows() == 0 {
        return wide(layout.offset());
    }
    let row = (wide(layout.rows()) - 1).saturating_mul(wide(layout.row_stride()));
    let head = (wide(layout.heads()) - 1).saturating_mul(wide(layout.head_stride()));
    row.saturating_add(head).saturating_add(wide(layout.offset()) + wide(layout.head_dim()))
}

fn check_ref(memory: &[f32], layout: Layout) -> Option<RowsRef<'_, Host, f32>> {
    let view = RowsRef::new(memory, layout);
    let expected = if layout.heads() == 0 {
        Some(ViewError::ZeroHeads)
    } else if layout.head_dim() == 0 {
        Some(ViewError::ZeroHeadDim)
    } else if reach(&layout) > usize::MAX as u128 {
        assert!(matches!(view, Err(ViewError::Overflow { .. })));
        return None;
    } else if reach(&layout) > memory.len() as u128 {
        Some(ViewError::OutOfBounds { needed: reach(&layout) as usize, given: memory.len() })
    } else {
        None
    };
    assert_eq!(view.as_ref().err(), expected.as_ref());
    view.ok()
}

/// Reads through the view, and checks where the layout says the elements are.
fn check_inside(memory: &[f32], view: RowsRef<'_, Host, f32>) {
    let layout = view.layout();
    for row in ends(layout.rows()) {
        for head in ends(layout.heads()) {
            let elements = view.get(row, head);
            let at = layout.at(row, head);
            assert!(core::ptr::eq(elements, &memory[at..at + layout.head_dim()]));
        }
    }
}

/// The first and the last of `0..n`.
fn ends(n: usize) -> impl Iterator<Item = usize> {
    (0..n.min(MANY)).chain(n.saturating_sub(MANY).max(MANY.min(n))..n)
}

fn check_pairs<'a>(memory: &[f32], view: RowsRef<'a, Host, f32>, other: &'a [f32], second: Layout) {
    let layout = view.layout();
    match KvRef::packed(view) {
        Ok(kv) => {
            assert!(layout.heads().is_multiple_of(2));
            check_inside(memory, kv.k());
            check_inside(memory, kv.v());
        }
        Err(error) => {
            assert_eq!(error, ViewError::OddPackedHeads { heads: layout.heads() });
            assert!(!layout.heads().is_multiple_of(2));
        }
    }
    if let Some(v) = check_ref(other, second) {
        let same = shape(&layout) == shape(&second);
        assert_eq!(KvRef::separate(view, v).is_ok(), same);
    }
}

fn shape(layout: &Layout) -> (usize, usize, usize) {
    (layout.rows(), layout.heads(), layout.head_dim())
}

/// Whether the layout puts two elements in one place. Looks at every element: for accepted views,
/// which have no more than their memory.
fn has_twice(layout: &Layout, len: usize) -> bool {
    let mut seen = vec![false; len];
    let heads = (0..layout.rows()).flat_map(|row| (0..layout.heads()).map(move |head| (row, head)));
    let mut places = heads.flat_map(|(row, head)| {
        let at = layout.at(row, head);
        at..at + layout.head_dim()
    });
    places.any(|place| core::mem::replace(&mut seen[place], true))
}

fn check_mut(memory: &mut [f32], layout: Layout) {
    let len = memory.len();
    let readable = RowsRef::<Host, f32>::new(memory, layout).err();
    match RowsMut::<Host, f32>::new(memory, layout) {
        Ok(mut view) => {
            assert_eq!(readable, None);
            assert!(!has_twice(&layout, len));
            for row in 0..layout.rows() {
                for head in 0..layout.heads() {
                    view.get_mut(row, head).fill(1.0);
                }
            }
        }
        Err(ViewError::Overlap { .. }) => assert_eq!(readable, None),
        Err(error) => assert_eq!(readable, Some(error)),
    }
    // Dense views are never refused for overlapping.
    let dense = Layout::dense(layout.rows(), layout.heads(), layout.head_dim()).with_offset(layout.offset());
    assert!(dense.check(len).is_err() || dense.check_distinct().is_ok());
}

fn check_kv_mut(memory: &mut [f32], first: Layout, other: &mut [f32], second: Layout) {
    if let Ok(Ok(kv)) = RowsMut::<Host, f32>::new(memory, first).map(KvMut::packed) {
        write_pairs(kv);
    }
    if let Ok(k) = RowsMut::<Host, f32>::new(memory, first)
        && let Ok(v) = RowsMut::new(other, second)
        && let Ok(kv) = KvMut::separate(k, v)
    {
        write_pairs(kv);
    }
}

/// Keys and values written through one view do not meet.
fn write_pairs(mut kv: KvMut<'_, Host, f32>) {
    let (rows, heads) = (kv.k_layout().rows(), kv.k_layout().heads());
    for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
        kv.key_mut(row, head).fill(2.0);
        kv.value_mut(row, head).fill(3.0);
    }
    let frozen = kv.freeze();
    for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
        assert!(frozen.k().get(row, head).iter().all(|&x| x == 2.0));
        assert!(frozen.v().get(row, head).iter().all(|&x| x == 3.0));
    }
}
