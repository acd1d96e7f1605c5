//! What all ranks must have been given alike, compared once when a group is made.

use super::RanksError;
use crate::{Attention, DType, Plan};
use core::fmt;

/// What ranks compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Field {
    /// The form of the agreement itself.
    Version,
    Ranks,
    Tokens,
    MicroSequenceLength,
    Documents,
    /// A digest of all document lengths, in order.
    Lengths,
    DType,
    Heads,
    KvHeads,
    HeadDim,
    Causal,
    /// 0 for none.
    Window,
    Scale,
    /// 0 for none.
    Softcap,
    /// A digest of what [`Agreement::and`] added.
    Operators,
}

impl Field {
    const ALL: [Self; Agreement::WORDS] = [
        Self::Version,
        Self::Ranks,
        Self::Tokens,
        Self::MicroSequenceLength,
        Self::Documents,
        Self::Lengths,
        Self::DType,
        Self::Heads,
        Self::KvHeads,
        Self::HeadDim,
        Self::Causal,
        Self::Window,
        Self::Scale,
        Self::Softcap,
        Self::Operators,
    ];

    /// A field's value, as people know it.
    pub(super) const fn value(self, word: u64) -> Value {
        Value { field: self, word }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "version of the agreement",
            Self::Ranks => "number of ranks",
            Self::Tokens => "tokens",
            Self::MicroSequenceLength => "micro_sequence_length",
            Self::Documents => "number of documents",
            Self::Lengths => "document lengths (digest)",
            Self::DType => "dtype",
            Self::Heads => "heads",
            Self::KvHeads => "kv_heads",
            Self::HeadDim => "head_dim",
            Self::Causal => "causal",
            Self::Window => "window (0: none)",
            Self::Scale => "scale",
            Self::Softcap => "softcap (0: none)",
            Self::Operators => "further operators (digest)",
        })
    }
}

/// A field's value, for messages.
pub(super) struct Value {
    field: Field,
    word: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Field::Lengths | Field::Operators => write!(f, "{:016x}", self.word),
            Field::Scale | Field::Softcap => write!(f, "{}", f32::from_bits(self.word as u32)),
            Field::Causal => write!(f, "{}", self.word != 0),
            Field::DType => match DType::from_word(self.word as u32) {
                Some(dtype) => write!(f, "{dtype}"),
                None => write!(f, "unknown ({})", self.word),
            },
            _ => write!(f, "{}", self.word),
        }
    }
}

/// What all ranks of a group must have been given alike: the plan, the operators, the element type,
/// their number.
///
/// Small and of one size: what grows, the document lengths, is a 64-bit digest. It finds mistakes, not
/// malice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    words: [u64; Self::WORDS],
}

const VERSION: u64 = 1;

impl Agreement {
    /// Words that an agreement is told in.
    pub const WORDS: usize = 15;

    /// Of `ranks` ranks that run an operator over the steps of a plan.
    pub fn new(plan: &Plan<'_>, attention: &Attention, dtype: DType, ranks: usize) -> Self {
        let lengths = plan.lengths().iter().fold(Digest::EMPTY, |digest, &length| digest.and(length.into()));
        let [heads, kv_heads, head_dim, causal, window, scale, softcap] = operator(attention);
        let words = [
            VERSION,
            ranks as u64,
            plan.tokens() as u64,
            plan.micro_sequence_length() as u64,
            plan.lengths().len() as u64,
            lengths.0,
            dtype.word().into(),
            heads,
            kv_heads,
            head_dim,
            causal,
            window,
            scale,
            softcap,
            Digest::EMPTY.0,
        ];
        Self { words }
    }

    /// And another operator, of layers that differ. The order counts.
    #[must_use]
    pub fn and(mut self, attention: &Attention) -> Self {
        let operators = &mut self.words[Self::WORDS - 1];
        *operators = operator(attention).into_iter().fold(Digest(*operators), Digest::and).0;
        self
    }

    /// The number of ranks agreed on.
    pub const fn ranks(&self) -> usize {
        self.words[1] as usize
    }

    /// The agreement in words.
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.words
    }

    /// Compares with what another rank told.
    ///
    /// # Errors
    /// [`RanksError::Differs`] with the first field that does.
    pub fn compare(&self, rank: usize, words: &[u64; Self::WORDS]) -> Result<(), RanksError> {
        let pairs = Field::ALL.into_iter().zip(self.words.iter().zip(words));
        match { pairs }.find(|(_, (here, there))| here != there) {
            Some((field, (&here, &there))) => Err(RanksError::Differs { rank, field, there, here }),
            None => Ok(()),
        }
    }
}

fn operator(attention: &Attention) -> [u64; 7] {
    let mask = attention.mask();
    [
        attention.heads() as u64,
        attention.kv_heads() as u64,
        attention.head_dim() as u64,
        mask.causal.into(),
        mask.window.map_or(0, |window| window.get() as u64),
        attention.scale().to_bits().into(),
        attention.softcap().unwrap_or(0.0).to_bits().into(),
    ]
}

/// FNV-1a over the bytes of words, lowest first: the same on every machine.
#[derive(Clone, Copy)]
struct Digest(u64);

impl Digest {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    fn and(self, word: u64) -> Self {
        let byte = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Self(word.to_le_bytes().into_iter().fold(self.0, byte))
    }
}
