//! What a rank says of itself when ranks meet: words of one size, whatever they meet for.

use microseq_core::{Agreement, Call, Occasion, RanksError};

/// A notice in words, to be compared with a rank's own.
pub(crate) type Words = [u64; 16];

/// What a rank says of itself.
#[derive(Clone, Copy)]
pub(crate) enum Notice {
    Making(Agreement),
    At(Call),
}

/// The first word.
const MAKING: u64 = 1;
const AT: u64 = 2;

impl Notice {
    pub(crate) fn words(&self) -> Words {
        let mut words = [0; 16];
        let (first, rest) = words.split_at_mut(1);
        match self {
            Self::Making(agreement) => {
                first[0] = MAKING;
                rest.copy_from_slice(agreement.words());
            }
            Self::At(call) => {
                first[0] = AT;
                rest.iter_mut().zip(call.words()).for_each(|(to, word)| *to = word.into());
            }
        }
        words
    }

    /// Compares with what another rank says.
    pub(crate) fn compare(&self, rank: usize, there: &Words) -> Result<(), RanksError> {
        let (first, rest) = (there[0], &there[1..]);
        match (self, first) {
            (Self::Making(here), MAKING) => {
                here.compare(rank, rest.try_into().map_err(|_| RanksError::Garbled { rank })?)
            }
            (Self::At(here), AT) => {
                let mut words = [0; Call::WORDS];
                words.iter_mut().zip(rest).for_each(|(to, word)| *to = *word as u32);
                here.compare(rank, &words)
            }
            _ => Err(RanksError::Garbled { rank }),
        }
    }

    /// What the ranks meet for.
    pub(crate) fn occasion(&self) -> Occasion {
        match self {
            Self::Making(_) => Occasion::Making,
            Self::At(call) => Occasion::Call(*call),
        }
    }
}
