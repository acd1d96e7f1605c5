//! The interface of a device, and the operands of its calls.

use crate::{DType, Element, KvMut, KvRef, Layout, Problem, RowsMut, RowsRef, Shape, Space};
use thiserror::Error;

/// Names an operand in a [`ShapeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operand {
    Q,
    K,
    V,
    Out,
    Lse,
    Dout,
    Dq,
    Dk,
    Dv,
    /// What a gather, an accumulation or a flush reads: its shape is to be that of what they write.
    From,
}

impl core::fmt::Display for Operand {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::Out => "out",
            Self::Lse => "lse",
            Self::Dout => "dout",
            Self::Dq => "dq",
            Self::Dk => "dk",
            Self::Dv => "dv",
            Self::From => "from",
        })
    }
}

/// Why operands do not fit a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Elements of another type than the call was prepared for.
    #[error("the call was prepared for {expected}, its operands are {given}")]
    DType {
        /// What was prepared.
        expected: DType,
        /// What came.
        given: DType,
    },
    /// A wrong number of rows.
    #[error("{operand} has {given} rows, expected {expected}")]
    Rows {
        /// Which operand.
        operand: Operand,
        /// Rows that fit.
        expected: usize,
        /// Rows of the view.
        given: usize,
    },
    /// A wrong number of heads.
    #[error("{operand} has {given} heads, expected {expected}")]
    Heads {
        /// Which operand.
        operand: Operand,
        /// Heads that fit.
        expected: usize,
        /// Heads of the view.
        given: usize,
    },
    /// A wrong head_dim.
    #[error("{operand} has head_dim {given}, expected {expected}")]
    HeadDim {
        /// Which operand.
        operand: Operand,
        /// The head_dim that fits.
        expected: usize,
        /// head_dim of the view.
        given: usize,
    },
    /// Scratch that is too small.
    #[error("the scratch holds {given} bytes, the call needs {expected}")]
    Scratch {
        /// What [`Device::scratch_bytes`] says.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
}

/// Which pass a scratch size is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// [`Device::forward`].
    Forward,
    /// [`Device::backward`].
    Backward,
}

/// Working memory lent to a call: bytes in the device's space, of any alignment and content.
pub type Scratch<'a, S> = <S as Space>::Mut<'a, u8>;

/// Operands of [`Device::forward`].
pub struct Forward<'a, S: Space, E: Element> {
    /// Queries, `[q_rows, heads, head_dim]`.
    pub q: RowsRef<'a, S, E>,
    /// Keys and values of the window, `[k_rows, kv_heads, head_dim]` each.
    pub kv: KvRef<'a, S, E>,
    /// `=` the attention's output, `[q_rows, heads, head_dim]`.
    pub out: RowsMut<'a, S, E>,
    /// `=` the natural-log logsumexp of the masked scores, `[heads, q_rows]` ([`Layout::lse`]).
    pub lse: RowsMut<'a, S, f32>,
}

impl<S: Space, E: Element> Forward<'_, S, E> {
    /// Whether the operands fit a prepared call. Devices ask before they write anything.
    ///
    /// # Errors
    /// Every variant of [`ShapeError`] but [`ShapeError::Scratch`].
    pub fn check(&self, shape: &Shape) -> Result<(), ShapeError> {
        check_dtype::<E>(shape)?;
        check_q(Operand::Q, &self.q.layout(), shape)?;
        check_kv(&self.kv.k().layout(), &self.kv.v().layout(), shape)?;
        check_q(Operand::Out, &self.out.layout(), shape)?;
        check_lse(&self.lse.layout(), shape)
    }
}

/// Operands of [`Device::backward`].
pub struct Backward<'a, S: Space, E: Element> {
    /// Queries, `[q_rows, heads, head_dim]`.
    pub q: RowsRef<'a, S, E>,
    /// Keys and values of the window, `[k_rows, kv_heads, head_dim]` each.
    pub kv: KvRef<'a, S, E>,
    /// The forward pass's output, `[q_rows, heads, head_dim]`.
    pub out: RowsRef<'a, S, E>,
    /// The forward pass's logsumexp, as in [`Forward::lse`].
    pub lse: RowsRef<'a, S, f32>,
    /// Gradient of the output, `[q_rows, heads, head_dim]`.
    pub dout: RowsRef<'a, S, E>,
    /// `=` the gradient of the queries, `[q_rows, heads, head_dim]`.
    pub dq: RowsMut<'a, S, E>,
    /// `+=` the gradients of keys and values, `[k_rows, kv_heads, head_dim]` each: the window of
    /// the slot's gradient store. Rows of [`Problem::zeroed_rows`] that get a gradient may be written
    /// unread.
    pub dkv: KvMut<'a, S, f32>,
}

impl<S: Space, E: Element> Backward<'_, S, E> {
    /// Whether the operands fit a prepared call. Devices ask before they write anything.
    ///
    /// # Errors
    /// Every variant of [`ShapeError`] but [`ShapeError::Scratch`].
    pub fn check(&self, shape: &Shape) -> Result<(), ShapeError> {
        check_dtype::<E>(shape)?;
        check_q(Operand::Q, &self.q.layout(), shape)?;
        check_kv(&self.kv.k().layout(), &self.kv.v().layout(), shape)?;
        check_q(Operand::Out, &self.out.layout(), shape)?;
        check_lse(&self.lse.layout(), shape)?;
        check_q(Operand::Dout, &self.dout.layout(), shape)?;
        check_q(Operand::Dq, &self.dq.layout(), shape)?;
        check_operand(Operand::Dk, &self.dkv.k_layout(), shape.k_rows, shape.kv_heads, shape.head_dim)?;
        check_operand(Operand::Dv, &self.dkv.v_layout(), shape.k_rows, shape.kv_heads, shape.head_dim)
    }
}

/// Operands of [`Device::gather_into`]: `into = from[0], from[1], …`, one share of rows after the
/// other.
///
/// The shares have a lifetime of their own, so that a list of them may be made for the call and
/// dropped behind it, in code that is generic over the space too.
pub struct Gather<'f, 'a, S: Space, E: Element> {
    /// The ranks' keys and values, in rank order.
    pub from: &'a [KvRef<'f, S, E>],
    /// `=` the slot rows of the step.
    pub into: KvMut<'a, S, E>,
}

impl<S: Space, E: Element> Gather<'_, '_, S, E> {
    /// Whether the shares fill the rows exactly. Devices ask before they write anything.
    ///
    /// # Errors
    /// [`ShapeError::Rows`], [`ShapeError::Heads`], [`ShapeError::HeadDim`].
    pub fn check(&self) -> Result<(), ShapeError> {
        let into = self.into.k_layout();
        for share in self.from {
            let from = share.k().layout();
            check_operand(Operand::From, &from, from.rows(), into.heads(), into.head_dim())?;
        }
        // Views that repeat a row may have more of them than can be added up.
        let rows = self.from.iter().map(|share| share.k().layout().rows());
        let rows = rows.fold(0, usize::saturating_add);
        if rows != into.rows() {
            return Err(ShapeError::Rows { operand: Operand::From, expected: into.rows(), given: rows });
        }
        Ok(())
    }
}

/// Operands of [`Device::accumulate`]: `into += from`.
pub struct Accumulate<'a, S: Space> {
    /// Gradients to add.
    pub from: KvRef<'a, S, f32>,
    /// `+=` rows of a gradient store.
    pub into: KvMut<'a, S, f32>,
}

impl<S: Space> Accumulate<'_, S> {
    /// Whether the two have one shape. Devices ask before they write anything.
    ///
    /// # Errors
    /// [`ShapeError::Rows`], [`ShapeError::Heads`], [`ShapeError::HeadDim`].
    pub fn check(&self) -> Result<(), ShapeError> {
        check_same(&self.from.k().layout(), &self.into.k_layout())
    }
}

/// Operands of [`Device::flush`]: `into = from`, rounded.
pub struct Flush<'a, S: Space, E: Element> {
    /// Sealed rows of a gradient store.
    pub from: KvRef<'a, S, f32>,
    /// `=` the same rows in the element type, for the backward of the projections.
    pub into: KvMut<'a, S, E>,
}

impl<S: Space, E: Element> Flush<'_, S, E> {
    /// Whether the two have one shape. Devices ask before they write anything.
    ///
    /// # Errors
    /// [`ShapeError::Rows`], [`ShapeError::Heads`], [`ShapeError::HeadDim`].
    pub fn check(&self) -> Result<(), ShapeError> {
        check_same(&self.from.k().layout(), &self.into.k_layout())
    }
}

/// A device: something that computes attention in a memory space.
///
/// # For runtimes
///
/// Call [`prepare`](Device::prepare) once per step and share the result among all layers, forward
/// and backward. The other calls allocate nothing and may be asynchronous: results are there when
/// the device's queue (a CUDA stream, say) has come past them; the CPU is done on return.
///
/// What a call promises, on every device that passes the conformance suite:
/// - `out`, `lse` and `dq` of a document have the same bits whatever is packed around it, wherever
///   it lies, and however the sequence is cut into steps and ranks, as long as its values are
///   finite;
/// - rows of no document, and queries that see no key, get `out = 0`, `lse = -inf`, `dq = 0`;
/// - `dk` and `dv` are added in f32; rows outside the documents of the call are not touched.
///
/// # For device authors
///
/// The six required methods are all there is. Check operands first, with their `check` methods, and
/// return what they return: nothing may be written on an error. Then run the conformance suite of
/// the feature `dev`.
pub trait Device {
    /// The memory that the device reaches.
    type Space: Space;
    /// What can go wrong; holds at least every [`ShapeError`].
    type Error: core::error::Error + From<ShapeError> + Send + Sync + 'static;
    /// A problem's metadata, ready for the kernels.
    type Prepared;

    /// Makes a problem's metadata, once for all layers and both passes. May allocate and copy.
    ///
    /// # Errors
    /// The device's own: a problem that it does not support, no memory.
    fn prepare(&self, problem: &Problem<'_>) -> Result<Self::Prepared, Self::Error>;

    /// As [`prepare`](Device::prepare), in place of metadata that is no longer used. Devices that
    /// can keep its memory do.
    ///
    /// # Errors
    /// As [`prepare`](Device::prepare); `prepared` is then unspecified but safe to use again.
    fn prepare_into(&self, problem: &Problem<'_>, prepared: &mut Self::Prepared) -> Result<(), Self::Error> {
        *prepared = self.prepare(problem)?;
        Ok(())
    }

    /// Bytes of scratch that a pass over a prepared problem needs: of a call from where this is asked, if it
    /// depends on the calling thread, as where a device works on the threads of its caller's pool.
    fn scratch_bytes(&self, prepared: &Self::Prepared, pass: Pass) -> usize {
        let _ = (prepared, pass);
        0
    }

    /// Copies the ranks' new keys and values into the next rows of a slot.
    ///
    /// # Errors
    /// What [`Gather::check`] finds.
    fn gather_into<E: Element>(&self, operands: Gather<'_, '_, Self::Space, E>) -> Result<(), Self::Error>;

    /// Attention, forward. Writes every element of `out` and `lse`.
    ///
    /// The operands must be of the step that `prepared` was made of. A device sees their shapes only: those of another step
    /// with as many rows are taken for this one's, and cut into this one's documents.
    ///
    /// # Errors
    /// What [`Forward::check`] finds, [`ShapeError::Scratch`], and the device's own.
    fn forward<E: Element>(
        &self,
        prepared: &Self::Prepared,
        operands: Forward<'_, Self::Space, E>,
        scratch: Scratch<'_, Self::Space>,
    ) -> Result<(), Self::Error>;

    /// Attention, backward. Writes every element of `dq`, adds to `dkv`. The operands must be of the step that `prepared`
    /// was made of, as in [`forward`](Device::forward).
    ///
    /// # Errors
    /// What [`Backward::check`] finds, [`ShapeError::Scratch`], and the device's own.
    fn backward<E: Element>(
        &self,
        prepared: &Self::Prepared,
        operands: Backward<'_, Self::Space, E>,
        scratch: Scratch<'_, Self::Space>,
    ) -> Result<(), Self::Error>;

    /// Adds gradients to rows of a gradient store, in f32: those of another rank, say.
    ///
    /// # Errors
    /// What [`Accumulate::check`] finds.
    fn accumulate(&self, operands: Accumulate<'_, Self::Space>) -> Result<(), Self::Error>;

    /// Rounds sealed gradient rows to the element type.
    ///
    /// # Errors
    /// What [`Flush::check`] finds.
    fn flush<E: Element>(&self, operands: Flush<'_, Self::Space, E>) -> Result<(), Self::Error>;
}

fn check_dtype<E: Element>(shape: &Shape) -> Result<(), ShapeError> {
    if E::DTYPE != shape.dtype {
        return Err(ShapeError::DType { expected: shape.dtype, given: E::DTYPE });
    }
    Ok(())
}

fn check_q(operand: Operand, layout: &Layout, shape: &Shape) -> Result<(), ShapeError> {
    check_operand(operand, layout, shape.q_rows, shape.heads, shape.head_dim)
}

fn check_lse(layout: &Layout, shape: &Shape) -> Result<(), ShapeError> {
    check_operand(Operand::Lse, layout, shape.q_rows, shape.heads, 1)
}

fn check_kv(k: &Layout, v: &Layout, shape: &Shape) -> Result<(), ShapeError> {
    check_operand(Operand::K, k, shape.k_rows, shape.kv_heads, shape.head_dim)?;
    check_operand(Operand::V, v, shape.k_rows, shape.kv_heads, shape.head_dim)
}

fn check_same(from: &Layout, into: &Layout) -> Result<(), ShapeError> {
    check_operand(Operand::From, from, into.rows(), into.heads(), into.head_dim())
}

fn check_operand(
    operand: Operand,
    layout: &Layout,
    rows: usize,
    heads: usize,
    head_dim: usize,
) -> Result<(), ShapeError> {
    if layout.rows() != rows {
        return Err(ShapeError::Rows { operand, expected: rows, given: layout.rows() });
    }
    if layout.heads() != heads {
        return Err(ShapeError::Heads { operand, expected: heads, given: layout.heads() });
    }
    if layout.head_dim() != head_dim {
        return Err(ShapeError::HeadDim { operand, expected: head_dim, given: layout.head_dim() });
    }
    Ok(())
}
