//! The attention operator: heads, mask, scale and softcap, checked once.

use crate::{Layout, Mask};
use core::num::NonZeroUsize;
use thiserror::Error;

/// The largest head_dim that devices take.
pub const MAX_HEAD_DIM: usize = 512;
/// The most query heads that devices take.
pub const MAX_HEADS: usize = 1 << 16;

/// The largest scale and softcap: devices multiply them by `log2(e)`, in f32.
const LARGEST: f32 = 2e38;
/// The smallest softcap: devices divide by it, in f32.
const SMALLEST: f32 = 2e-38;

/// Why an operator is refused.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// No query heads.
    #[error("heads is 0, expected at least 1")]
    ZeroHeads,
    /// More query heads than [`MAX_HEADS`].
    #[error("heads is {heads}, expected at most {MAX_HEADS}")]
    TooManyHeads {
        /// The number given.
        heads: usize,
    },
    /// No K/V heads.
    #[error("kv_heads is 0, expected at least 1")]
    ZeroKvHeads,
    /// Query heads that cannot share K/V heads equally.
    #[error("{heads} heads are not a multiple of {kv_heads} kv_heads")]
    UnevenGroups {
        /// Query heads.
        heads: usize,
        /// K/V heads.
        kv_heads: usize,
    },
    /// A head_dim outside 1 to [`MAX_HEAD_DIM`].
    #[error("head_dim is {head_dim}, expected 1 to {MAX_HEAD_DIM}")]
    HeadDim {
        /// The head_dim given.
        head_dim: usize,
    },
    /// A window that holds not even the query's own token.
    #[error("window is 0, expected at least 1: it counts the token itself")]
    ZeroWindow,
    /// A scale that is not a number to multiply by, or so large that scores would be infinite.
    #[error("scale is {scale}, expected a number from {:e} to {LARGEST:e}", -LARGEST)]
    Scale {
        /// The scale given.
        scale: f32,
    },
    /// A softcap that caps nothing, or so large that scores would be infinite. To cap nothing, leave it out.
    #[error("softcap is {softcap}, expected a number from {SMALLEST:e} to {LARGEST:e}")]
    Softcap {
        /// The softcap given.
        softcap: f32,
    },
}

/// An attention operator. Query head `h` uses K/V head `h / (heads / kv_heads)`.
///
/// Scores are `scale * q.k`, then, with a softcap, `softcap * tanh(score / softcap)`; the softmax is
/// taken over the keys that the mask lets through.
///
/// ```
/// use microseq_core::Attention;
/// let attention = Attention::new(32, 8, 128)?.with_window(4096)?;
/// assert_eq!(attention.group(), 4);
/// # Ok::<(), microseq_core::AttentionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mask: Mask,
    scale: f32,
    softcap: Option<f32>,
}

impl Attention {
    /// Causal attention with `scale = 1 / sqrt(head_dim)`.
    ///
    /// # Errors
    /// [`AttentionError::ZeroHeads`], [`AttentionError::TooManyHeads`], [`AttentionError::ZeroKvHeads`],
    /// [`AttentionError::UnevenGroups`], [`AttentionError::HeadDim`].
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Result<Self, AttentionError> {
        if heads == 0 {
            return Err(AttentionError::ZeroHeads);
        }
        if heads > MAX_HEADS {
            return Err(AttentionError::TooManyHeads { heads });
        }
        if kv_heads == 0 {
            return Err(AttentionError::ZeroKvHeads);
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(AttentionError::UnevenGroups { heads, kv_heads });
        }
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(AttentionError::HeadDim { head_dim });
        }
        let scale = 1.0 / libm::sqrtf(head_dim as f32);
        Ok(Self { heads, kv_heads, head_dim, mask: Mask::CAUSAL, scale, softcap: None })
    }

    /// Every query sees all keys of its document.
    #[must_use]
    pub const fn non_causal(mut self) -> Self {
        self.mask.causal = false;
        self
    }

    /// Queries see no further back than `window` tokens, their own included. Without a causal mask they still see
    /// all keys behind them.
    ///
    /// # Errors
    /// [`AttentionError::ZeroWindow`].
    pub const fn with_window(mut self, window: usize) -> Result<Self, AttentionError> {
        match NonZeroUsize::new(window) {
            Some(window) => self.mask.window = Some(window),
            None => return Err(AttentionError::ZeroWindow),
        }
        Ok(self)
    }

    /// Replaces the scale.
    ///
    /// # Errors
    /// [`AttentionError::Scale`].
    pub const fn with_scale(mut self, scale: f32) -> Result<Self, AttentionError> {
        if !(-LARGEST <= scale && scale <= LARGEST) {
            return Err(AttentionError::Scale { scale });
        }
        self.scale = scale;
        Ok(self)
    }

    /// Caps scores softly at `softcap`.
    ///
    /// # Errors
    /// [`AttentionError::Softcap`].
    pub const fn with_softcap(mut self, softcap: f32) -> Result<Self, AttentionError> {
        if !(SMALLEST <= softcap && softcap <= LARGEST) {
            return Err(AttentionError::Softcap { softcap });
        }
        self.softcap = Some(softcap);
        Ok(self)
    }

    /// Query heads.
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// K/V heads.
    pub const fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Query heads per K/V head.
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of a head.
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Dense queries, outputs and their gradients: `[rows, heads, head_dim]`.
    pub const fn q_layout(&self, rows: usize) -> Layout {
        Layout::dense(rows, self.heads, self.head_dim)
    }

    /// Dense packed keys and values, or their gradients: `[rows, 2 * kv_heads, head_dim]`.
    pub const fn kv_layout(&self, rows: usize) -> Layout {
        // heads is a multiple of kv_heads; twice as many of the latter may overflow: no memory fits.
        Layout::dense(rows, self.kv_heads.saturating_mul(2), self.head_dim)
    }

    /// Dense logsumexps: `[heads, rows]`.
    pub const fn lse_layout(&self, rows: usize) -> Layout {
        Layout::lse(self.heads, rows)
    }

    /// Which keys a query sees.
    pub const fn mask(&self) -> Mask {
        self.mask
    }

    /// What the products `q.k` are multiplied by.
    pub const fn scale(&self) -> f32 {
        self.scale
    }

    /// The soft cap of the scores.
    pub const fn softcap(&self) -> Option<f32> {
        self.softcap
    }
}
