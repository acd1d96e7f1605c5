//! Dense tensors laid into memory with gaps, and what became of the gaps.

use crate::{Element, Layout};
use std::vec;
use std::vec::Vec;

/// How a `[rows, heads, head_dim]` tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrangement {
    /// Rows of heads, nothing between.
    Dense,
    /// Rows of heads, with gaps before the first row and between heads and rows.
    Strided,
    /// Heads of rows, nothing between.
    HeadMajor,
    /// Heads of rows, with gaps.
    HeadMajorStrided,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Strided, Self::HeadMajor, Self::HeadMajorStrided];

    /// The layout of a tensor so arranged.
    pub const fn layout(self, rows: usize, heads: usize, head_dim: usize) -> Layout {
        let dense = Layout::dense(rows, heads, head_dim);
        match self {
            Self::Dense => dense,
            Self::Strided => dense
                .with_offset(5)
                .with_head_stride(head_dim + 3)
                .with_row_stride(heads * (head_dim + 3) + 2),
            Self::HeadMajor => dense.with_row_stride(head_dim).with_head_stride(rows * head_dim),
            Self::HeadMajorStrided => {
                dense.with_offset(3).with_row_stride(head_dim + 1).with_head_stride(rows * (head_dim + 1) + 7)
            }
        }
    }

    /// The layout of an lse so arranged. Without gaps it is [`Layout::lse`].
    pub const fn lse_layout(self, heads: usize, rows: usize) -> Layout {
        match self {
            Self::Dense | Self::HeadMajor => Layout::lse(heads, rows),
            Self::Strided => Layout::lse(heads, rows).with_offset(3).with_head_stride(rows + 5),
            Self::HeadMajorStrided => {
                Layout::lse(heads, rows).with_offset(1).with_row_stride(heads + 2).with_head_stride(1)
            }
        }
    }
}

/// Memory on the host and the tensor in it.
#[derive(Clone, Debug)]
pub(crate) struct Tensor<T> {
    pub(crate) layout: Layout,
    pub(crate) memory: Vec<T>,
}

impl<T: Element> Tensor<T> {
    /// Lays dense elements into memory; `gap` fills the rest, some of it behind the last element.
    pub(crate) fn scatter(layout: Layout, dense: &[T], gap: T) -> Self {
        let mut tensor = Self::filled(layout, gap, gap);
        let head_dim = layout.head_dim();
        for (begin, head) in begins(&layout).zip(dense.chunks_exact(head_dim)) {
            tensor.memory[begin..begin + head_dim].copy_from_slice(head);
        }
        tensor
    }

    /// A tensor of one value, with gaps of another.
    pub(crate) fn filled(layout: Layout, value: T, gap: T) -> Self {
        let mut memory = vec![gap; extent(&layout)];
        for begin in begins(&layout) {
            memory[begin..begin + layout.head_dim()].fill(value);
        }
        Self { layout, memory }
    }

    /// The tensor's elements, dense.
    pub(crate) fn collect(&self) -> Vec<T> {
        let head_dim = self.layout.head_dim();
        begins(&self.layout).flat_map(|begin| self.memory[begin..begin + head_dim].iter().copied()).collect()
    }

    /// The first place outside the tensor whose bits differ from `before`.
    pub(crate) fn first_change_outside(&self, before: &Self) -> Option<usize> {
        let mut inside = vec![false; self.memory.len()];
        for begin in begins(&self.layout) {
            inside[begin..begin + self.layout.head_dim()].fill(true);
        }
        self.changes(before).find(|&n| !inside[n])
    }

    /// The first place whose bits differ from `before`.
    pub(crate) fn first_change(&self, before: &Self) -> Option<usize> {
        self.changes(before).next()
    }

    fn changes(&self, before: &Self) -> impl Iterator<Item = usize> {
        let pairs = self.memory.iter().zip(&before.memory).enumerate();
        pairs.filter(|(_, (now, before))| bits(**now) != bits(**before)).map(|(n, _)| n)
    }
}

/// An element's bits, widened to f32: two elements have the same if and only if they are the same,
/// as far as numbers, infinities and signs of 0 go.
pub(crate) fn bits<E: Element>(x: E) -> u32 {
    x.to_f32().to_bits()
}

/// Where each head of each row begins, in the order of a dense tensor.
fn begins(layout: &Layout) -> impl Iterator<Item = usize> + use<> {
    let layout = *layout;
    (0..layout.rows()).flat_map(move |row| (0..layout.heads()).map(move |head| layout.at(row, head)))
}

/// Elements of memory for a layout: up to the last element, and where there are gaps, some more.
fn extent(layout: &Layout) -> usize {
    let last = begins(layout).max().map_or(layout.offset(), |begin| begin + layout.head_dim());
    last + layout.offset()
}
