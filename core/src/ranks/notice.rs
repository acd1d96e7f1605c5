//! What a rank says of itself when ranks meet: words of one size, whatever they meet for.

use super::{Agreement, Call, Occasion, RanksError};

/// What a rank says of itself, for transports to exchange and compare before anything is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// What it was given, when the group is made.
    Making(Agreement),
    /// The collective that it has come to.
    At(Call),
}

/// The first word.
const MAKING: u64 = 1;
const AT: u64 = 2;

impl Notice {
    /// Words that a notice is told in.
    pub const WORDS: usize = 16;

    /// The notice in words.
    pub fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
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
    ///
    /// # Errors
    /// [`RanksError::Differs`], [`RanksError::OtherCall`], [`RanksError::Garbled`].
    pub fn compare(&self, rank: usize, there: &[u64; Self::WORDS]) -> Result<(), RanksError> {
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
    pub const fn occasion(&self) -> Occasion {
        match self {
            Self::Making(_) => Occasion::Making,
            Self::At(call) => Occasion::Call(*call),
        }
    }
}
