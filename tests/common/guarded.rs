//! Tensors with gaps around and between their rows, and what became of the gaps.

use microseq::{Element, Host, KvMut, KvRef, Layout, RowsMut, RowsRef};
use std::ops::Range;

/// Memory, a tensor in it, and a copy to compare with.
pub(crate) struct Guarded<T> {
    layout: Layout,
    memory: Vec<T>,
    before: Vec<T>,
}

impl<T: Element> Guarded<T> {
    /// `value` in the tensor's elements, `gap` around and between them.
    pub(crate) fn filled(layout: Layout, value: T, gap: T) -> Self {
        let heads = pairs(0..layout.rows(), layout.heads());
        let last = heads.map(|(row, head)| layout.at(row, head) + layout.head_dim()).max();
        let mut memory = vec![gap; last.unwrap_or(0) + 11];
        for (row, head) in pairs(0..layout.rows(), layout.heads()) {
            memory[layout.at(row, head)..][..layout.head_dim()].fill(value);
        }
        Self { layout, before: memory.clone(), memory }
    }

    /// The elements of a dense tensor.
    pub(crate) fn holding(layout: Layout, dense: &[T], gap: T) -> Self {
        let mut tensor = Self::filled(layout, gap, gap);
        let heads = pairs(0..layout.rows(), layout.heads());
        for ((row, head), elements) in heads.zip(dense.chunks_exact(layout.head_dim())) {
            tensor.memory[layout.at(row, head)..][..elements.len()].copy_from_slice(elements);
        }
        tensor
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Overwrites all rows but these.
    pub(crate) fn poison_outside(&mut self, rows: &Range<usize>, poison: T) {
        for (row, head) in pairs(0..self.layout.rows(), self.layout.heads()) {
            if !rows.contains(&row) {
                self.memory[self.layout.at(row, head)..][..self.layout.head_dim()].fill(poison);
            }
        }
    }

    /// Remembers the memory as it is.
    pub(crate) fn remember(&mut self) {
        self.before.clone_from(&self.memory);
    }

    /// # Panics
    /// Where a place that is not in these rows differs from what was remembered.
    #[track_caller]
    pub(crate) fn assert_untouched_outside(&self, what: &str, rows: &Range<usize>) {
        let mut inside = vec![false; self.memory.len()];
        for (row, head) in pairs(rows.clone(), self.layout.heads()) {
            inside[self.layout.at(row, head)..][..self.layout.head_dim()].fill(true);
        }
        let places = self.memory.iter().zip(&self.before).zip(&inside);
        let changed = places.map(|((now, before), inside)| !inside && bits(*now) != bits(*before));
        if let Some(place) = changed.enumerate().find_map(|(place, changed)| changed.then_some(place)) {
            panic!("{what}: place {place} is outside rows {rows:?} of {:?}, yet changed", self.layout);
        }
    }

    /// The tensor, dense.
    pub(crate) fn dense(&self) -> Vec<T> {
        let heads = pairs(0..self.layout.rows(), self.layout.heads());
        heads.flat_map(|(row, head)| self.read().get(row, head)).copied().collect()
    }

    pub(crate) fn read(&self) -> RowsRef<'_, Host, T> {
        RowsRef::new(&self.memory[..], self.layout).unwrap()
    }

    pub(crate) fn write(&mut self) -> RowsMut<'_, Host, T> {
        RowsMut::new(&mut self.memory[..], self.layout).unwrap()
    }

    /// The tensor as packed K/V.
    pub(crate) fn read_kv(&self) -> KvRef<'_, Host, T> {
        KvRef::packed(self.read()).unwrap()
    }

    /// The tensor as packed K/V.
    pub(crate) fn write_kv(&mut self) -> KvMut<'_, Host, T> {
        KvMut::packed(self.write()).unwrap()
    }
}

fn bits<T: Element>(x: T) -> u32 {
    x.to_f32().to_bits()
}

fn pairs(rows: Range<usize>, heads: usize) -> impl Iterator<Item = (usize, usize)> {
    rows.flat_map(move |row| (0..heads).map(move |head| (row, head)))
}
