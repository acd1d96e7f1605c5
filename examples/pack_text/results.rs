//! What a run gives, on the host, and how two runs differ.

use microseq::{Attention, Element};
use std::ops::Range;
use std::time::Duration;

/// How long the attention of a step took, over all layers and ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passes {
    pub(crate) forward: Duration,
    pub(crate) backward: Duration,
}

/// A layer's results for the whole sequence.
pub(crate) struct LayerResults<E> {
    /// `[tokens, heads, head_dim]`.
    pub(crate) out: Vec<E>,
    /// `[heads, tokens]`.
    pub(crate) lse: Vec<f32>,
    /// `[tokens, heads, head_dim]`.
    pub(crate) dq: Vec<E>,
    /// `[tokens, 2 * kv_heads, head_dim]`.
    pub(crate) dkv: Vec<f32>,
    tokens: usize,
    /// Elements of a row of `out`.
    columns: usize,
}

impl<E: Element> LayerResults<E> {
    pub(crate) fn new(tokens: usize, attention: &Attention) -> Self {
        let columns = attention.heads() * attention.head_dim();
        Self {
            out: vec![E::default(); tokens * columns],
            lse: vec![0.0; tokens * attention.heads()],
            dq: vec![E::default(); tokens * columns],
            dkv: Vec::new(),
            tokens,
            columns,
        }
    }

    pub(crate) fn put_forward(&mut self, rows: Range<usize>, out: &[E], lse: &[f32]) {
        let elements = self.elements(&rows);
        self.out[elements].copy_from_slice(out);
        if rows.is_empty() {
            return;
        }
        let heads = self.lse.chunks_exact_mut(self.tokens);
        for (into, from) in heads.zip(lse.chunks_exact(rows.len())) {
            into[rows.clone()].copy_from_slice(from);
        }
    }

    pub(crate) fn put_dq(&mut self, rows: Range<usize>, dq: &[E]) {
        let elements = self.elements(&rows);
        self.dq[elements].copy_from_slice(dq);
    }

    fn elements(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.columns..rows.end * self.columns
    }
}

/// How two results of the same shape differ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Difference {
    pub(crate) elements: usize,
    /// Elements whose bits differ.
    pub(crate) differing: usize,
    pub(crate) max_abs: f64,
    squared_difference: f64,
    squared_expected: f64,
}

impl Difference {
    pub(crate) fn add<E: Element>(&mut self, given: &[E], expected: &[E]) {
        for (given, expected) in given.iter().zip(expected) {
            let (given, expected) = (given.to_f32(), expected.to_f32());
            self.elements += 1;
            self.squared_expected += f64::from(expected).powi(2);
            if given.to_bits() != expected.to_bits() {
                let apart = (f64::from(given) - f64::from(expected)).abs();
                self.differing += 1;
                self.max_abs = self.max_abs.max(apart);
                self.squared_difference += apart * apart;
            }
        }
    }

    pub(crate) fn bit_identical(&self) -> bool {
        self.differing == 0
    }

    /// Root mean square of the difference, relative to that of what was expected.
    pub(crate) fn relative_rms(&self) -> f64 {
        (self.squared_difference / self.squared_expected).sqrt()
    }
}

/// How the results of all layers differ.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Differences {
    pub(crate) out: Difference,
    pub(crate) lse: Difference,
    pub(crate) dq: Difference,
    pub(crate) dkv: Difference,
}

impl Differences {
    pub(crate) fn between<E: Element>(given: &[LayerResults<E>], expected: &[LayerResults<E>]) -> Self {
        let mut differences = Self::default();
        for (given, expected) in given.iter().zip(expected) {
            differences.out.add(&given.out, &expected.out);
            differences.lse.add(&given.lse, &expected.lse);
            differences.dq.add(&given.dq, &expected.dq);
            differences.dkv.add(&given.dkv, &expected.dkv);
        }
        differences
    }
}
