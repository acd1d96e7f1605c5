//! Rows as runs of adjacent elements: what transports can move without knowing strides.

use super::RanksError;
use crate::{Element, KvMut, KvParts, Layout, Operand, Space};

/// Rows of one memory that lie one behind the other without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the memory the first row begins, in elements.
    pub offset: usize,
    /// Elements of a row.
    pub row: usize,
    /// Rows.
    pub rows: usize,
}

/// Keys and values as runs.
pub enum Runs<'a, S: Space, E: Element> {
    /// Packed: one run holds both.
    One(S::Mut<'a, E>, Run),
    /// Separate: a run of keys and one of values.
    Two([(S::Mut<'a, E>, Run); 2]),
}

impl<'a, S: Space, E: Element> Runs<'a, S, E> {
    /// The runs of a view.
    ///
    /// # Errors
    /// [`RanksError::NotDense`].
    pub fn of(rows: KvMut<'a, S, E>) -> Result<Self, RanksError> {
        match rows.into_parts() {
            KvParts::Packed { memory, k, v } => {
                let keys = elements(&k);
                let joined = k.rows() == 0 || v.offset() == k.offset() + keys;
                let run = run(Operand::K, &k, keys.saturating_mul(2))?;
                if joined { Ok(Self::One(memory, run)) } else { Err(not_dense(Operand::V, &v)) }
            }
            KvParts::Separate { k, v } => {
                let row = elements(&k.layout());
                let (keys, values) = (run(Operand::K, &k.layout(), row)?, run(Operand::V, &v.layout(), row)?);
                Ok(Self::Two([(k.into_memory(), keys), (v.into_memory(), values)]))
            }
        }
    }
}

/// Elements of a row. Views without rows may be of any shape.
fn elements(layout: &Layout) -> usize {
    layout.heads().saturating_mul(layout.head_dim())
}

fn run(operand: Operand, layout: &Layout, row: usize) -> Result<Run, RanksError> {
    let heads_join = layout.heads() == 1 || layout.head_stride() == layout.head_dim();
    let rows_join = layout.rows() <= 1 || layout.row_stride() == row;
    if layout.rows() > 0 && !(heads_join && rows_join) {
        return Err(not_dense(operand, layout));
    }
    Ok(Run { offset: layout.offset(), row, rows: layout.rows() })
}

fn not_dense(operand: Operand, layout: &Layout) -> RanksError {
    RanksError::NotDense {
        operand,
        rows: layout.rows(),
        heads: layout.heads(),
        head_dim: layout.head_dim(),
        row_stride: layout.row_stride(),
        head_stride: layout.head_stride(),
    }
}
