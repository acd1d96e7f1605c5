//! What a collective is for, in words that ranks compare before they move anything.

use super::RanksError;
use crate::{DType, Element, KvMut, Operand, ShapeError, Space, Step};
use core::fmt;

/// Which collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collective {
    /// [`Ranks::gather`](super::Ranks::gather).
    Gather,
    /// [`Ranks::reduce`](super::Ranks::reduce).
    Reduce,
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gather => "the gather",
            Self::Reduce => "the reduce",
        })
    }
}

/// One collective: what is moved, for which step of which layer, the how-manieth it is.
///
/// Ranks exchange [`words`](Call::words) and move nothing unless all are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which collective.
    pub collective: Collective,
    /// Collectives of the group before this one, modulo 2^32.
    pub number: u32,
    /// The layer.
    pub layer: u32,
    /// [`Step::index`].
    pub step: u32,
    /// Where [`Step::write`] begins.
    pub begin: u32,
    /// Where [`Step::write`] ends.
    pub end: u32,
    /// Heads of K, and of V.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// The type of the elements.
    pub dtype: DType,
}

/// Marks words as those of this version of [`Call`].
const MARK: u32 = 0x6d73_7101;

impl Call {
    /// Words that a call is told in.
    pub const WORDS: usize = 10;

    /// A gather into rows of a slot.
    ///
    /// # Errors
    /// [`ShapeError::Rows`] where the rows are not as many as those of [`Step::write`];
    /// [`RanksError::TooLarge`] where a number does not fit 32 bits.
    pub fn gather<S: Space, E: Element>(
        layer: u32,
        step: &Step<'_>,
        rows: &KvMut<'_, S, E>,
    ) -> Result<Self, RanksError> {
        Self::new(Collective::Gather, layer, step, rows, Operand::K)
    }

    /// A reduce of rows of a gradient store.
    ///
    /// # Errors
    /// As [`gather`](Call::gather).
    pub fn reduce<S: Space>(
        layer: u32,
        step: &Step<'_>,
        rows: &KvMut<'_, S, f32>,
    ) -> Result<Self, RanksError> {
        Self::new(Collective::Reduce, layer, step, rows, Operand::Dk)
    }

    fn new<S: Space, E: Element>(
        collective: Collective,
        layer: u32,
        step: &Step<'_>,
        rows: &KvMut<'_, S, E>,
        operand: Operand,
    ) -> Result<Self, RanksError> {
        let (layout, write) = (rows.k_layout(), step.write());
        if layout.rows() != write.len() {
            return Err(ShapeError::Rows { operand, expected: write.len(), given: layout.rows() }.into());
        }
        Ok(Self {
            collective,
            number: 0,
            layer,
            step: word("the step's number", step.index())?,
            begin: word("the step's begin", write.start)?,
            end: word("the step's end", write.end)?,
            kv_heads: word("kv_heads", layout.heads())?,
            head_dim: word("head_dim", layout.head_dim())?,
            dtype: E::DTYPE,
        })
    }

    /// The same call as the how-manieth of its group.
    #[must_use]
    pub const fn numbered(mut self, number: u32) -> Self {
        self.number = number;
        self
    }

    /// The call in words.
    pub const fn words(&self) -> [u32; Self::WORDS] {
        let collective = match self.collective {
            Collective::Gather => 0,
            Collective::Reduce => 1,
        };
        let dtype = self.dtype.word();
        let Self { number, layer, step, begin, end, kv_heads, head_dim, .. } = *self;
        [MARK, collective, number, layer, step, begin, end, kv_heads, head_dim, dtype]
    }

    /// The call that words tell, if they tell one.
    pub const fn from_words(words: &[u32; Self::WORDS]) -> Option<Self> {
        let [mark, collective, number, layer, step, begin, end, kv_heads, head_dim, dtype] = *words;
        if mark != MARK {
            return None;
        }
        let collective = match collective {
            0 => Collective::Gather,
            1 => Collective::Reduce,
            _ => return None,
        };
        let Some(dtype) = DType::from_word(dtype) else { return None };
        Some(Self { collective, number, layer, step, begin, end, kv_heads, head_dim, dtype })
    }

    /// Compares with what another rank told.
    ///
    /// # Errors
    /// [`RanksError::OtherCall`], [`RanksError::Garbled`].
    pub fn compare(&self, rank: usize, words: &[u32; Self::WORDS]) -> Result<(), RanksError> {
        match Self::from_words(words) {
            None => Err(RanksError::Garbled { rank }),
            Some(there) if there != *self => Err(RanksError::OtherCall { rank, there, here: *self }),
            Some(_) => Ok(()),
        }
    }
}

fn word(what: &'static str, given: usize) -> Result<u32, RanksError> {
    u32::try_from(given).map_err(|_| RanksError::TooLarge { what, given, limit: u32::MAX as usize })
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collective, number, layer, step, begin, end, kv_heads, head_dim, dtype } = self;
        write!(
            f,
            "{collective} of step {step}, layer {layer} (rows {begin}..{end}, {kv_heads} K/V heads of {head_dim} in {dtype}, collective {number})"
        )
    }
}
