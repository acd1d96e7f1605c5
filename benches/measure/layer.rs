//! A layer's operands, and both passes over its slot.

use anyhow::{Context, Result};
use microseq::dev::{Harness, PreparedOf, Random, SpaceOf};
use microseq::{
    Attention, Backward, Device, Element, Forward, KvMut, KvRef, Layout, Pass, Plan, Problem, RowsMut,
    RowsRef, Scalar, Slot, Step, ViewError,
};

/// A plan with every step's metadata, prepared once for all repetitions.
pub(crate) struct Cut<'p, H: Harness> {
    pub(crate) plan: Plan<'p>,
    turns: Vec<(Step<'p>, PreparedOf<H>)>,
    forward_flops: f64,
    scratch_bytes: usize,
}

impl<'p, H: Harness> Cut<'p, H> {
    pub(crate) fn new<E: Element>(harness: &H, plan: Plan<'p>, attention: Attention) -> Result<Self> {
        let device = harness.device();
        let mut cut = Self { plan, turns: Vec::new(), forward_flops: 0.0, scratch_bytes: 0 };
        for step in plan.steps() {
            // Zeroed before the pass whose results are checked. What is measured adds to what the pass before left,
            // where a document goes on behind its step; elsewhere it overwrites that, as zeros.
            let problem = Problem::new(attention, step, E::DTYPE)?.on_zeroed_store();
            let prepared = device.prepare(&problem)?;
            for pass in [Pass::Forward, Pass::Backward] {
                cut.scratch_bytes = cut.scratch_bytes.max(device.scratch_bytes(&prepared, pass));
            }
            cut.forward_flops += problem.forward_flops();
            cut.turns.push((step, prepared));
        }
        Ok(cut)
    }

    /// Two matrix products over every visible pair.
    pub(crate) fn forward_flops(&self) -> f64 {
        self.forward_flops
    }

    /// Five of them: 2.5 times the forward pass.
    pub(crate) fn backward_flops(&self) -> f64 {
        2.5 * self.forward_flops
    }
}

/// Operands on the host, dense.
pub(crate) struct Operands<E> {
    /// `[tokens, heads, head_dim]`.
    pub(crate) q: Vec<E>,
    /// `[tokens, 2 * kv_heads, head_dim]`, keys first.
    pub(crate) kv: Vec<E>,
    /// `[tokens, heads, head_dim]`.
    pub(crate) dout: Vec<E>,
}

impl<E: Element> Operands<E> {
    /// Normally distributed numbers, the same on every machine.
    pub(crate) fn random(attention: &Attention, tokens: usize) -> Self {
        let mut random = Random::new(1);
        let row = attention.head_dim() * attention.heads();
        let kv_row = attention.head_dim() * attention.kv_heads() * 2;
        Self {
            q: elements(&mut random, tokens * row),
            kv: elements(&mut random, tokens * kv_row),
            dout: elements(&mut random, tokens * row),
        }
    }
}

/// `n` random elements. Large tensors repeat a block of a prime size, so that no two rows are alike
/// and a million tokens need no minutes.
fn elements<E: Element>(random: &mut Random, n: usize) -> Vec<E> {
    const BLOCK: usize = 4_194_301;
    let block = random.elements(n.min(BLOCK));
    block.iter().copied().cycle().take(n).collect()
}

/// A layer: operands, results, and the slot's two stores.
pub(crate) struct Layer<'h, H: Harness, E: Element> {
    harness: &'h H,
    pub(crate) attention: Attention,
    rows: Layout,
    kv_rows: Layout,
    lse_rows: Layout,
    pub(crate) q: H::Buffer<E>,
    pub(crate) kv: H::Buffer<E>,
    pub(crate) dout: H::Buffer<E>,
    pub(crate) out: H::Buffer<E>,
    pub(crate) lse: H::Buffer<f32>,
    pub(crate) dq: H::Buffer<E>,
    pub(crate) dkv: H::Buffer<f32>,
    scratch: H::Buffer<u8>,
    scratch_bytes: usize,
    /// As the last forward pass left it.
    slot: Option<Slot>,
}

impl<'h, H: Harness, E: Element> Layer<'h, H, E> {
    pub(crate) fn new(harness: &'h H, attention: Attention, tokens: usize, operands: &Operands<E>) -> Self {
        let rows = Layout::dense(tokens, attention.heads(), attention.head_dim());
        let kv_rows = Layout::dense(tokens, 2 * attention.kv_heads(), attention.head_dim());
        Self {
            harness,
            attention,
            rows,
            kv_rows,
            lse_rows: Layout::lse(attention.heads(), tokens),
            q: harness.upload(&operands.q),
            kv: harness.upload(&operands.kv),
            dout: harness.upload(&operands.dout),
            out: zeros(harness, operands.q.len()),
            lse: zeros(harness, attention.heads() * tokens),
            dq: zeros(harness, operands.q.len()),
            dkv: zeros(harness, operands.kv.len()),
            scratch: zeros(harness, 0),
            scratch_bytes: 0,
            slot: None,
        }
    }

    pub(crate) fn harness(&self) -> &'h H {
        self.harness
    }

    /// Makes room for a plan's scratch, so that no pass allocates.
    pub(crate) fn reserve(&mut self, cut: &Cut<'_, H>) {
        if cut.scratch_bytes > self.scratch_bytes {
            self.scratch = zeros(self.harness, cut.scratch_bytes);
            self.scratch_bytes = cut.scratch_bytes;
        }
    }

    /// Starts the gradients of K and V from 0. Between timed repetitions nobody does: the sums grow,
    /// which costs nothing.
    pub(crate) fn clear_gradients(&mut self) {
        self.dkv = zeros(self.harness, self.kv_rows.rows() * self.kv_rows.row_stride());
    }

    /// All steps in order; returns when the results are there.
    pub(crate) fn forward(&mut self, cut: &Cut<'_, H>) -> Result<()> {
        let (harness, rows, kv_rows, lse_rows) = (self.harness, self.rows, self.kv_rows, self.lse_rows);
        let mut slot = Slot::new(&cut.plan);
        for (step, prepared) in &cut.turns {
            let window = slot.forward(step)?;
            let operands = Forward {
                q: view(harness, &self.q, rows)?.narrow(step.rows())?,
                kv: KvRef::packed(view(harness, &self.kv, kv_rows)?)?.narrow(window)?,
                out: view_mut(harness, &mut self.out, rows)?.narrow(step.rows())?,
                lse: view_mut(harness, &mut self.lse, lse_rows)?.narrow(step.rows())?,
            };
            harness.device().forward(prepared, operands, harness.view_mut(&mut self.scratch))?;
        }
        self.slot = Some(slot);
        harness.synchronise();
        Ok(())
    }

    /// All steps in reverse, over the results of the last forward pass.
    pub(crate) fn backward(&mut self, cut: &Cut<'_, H>) -> Result<()> {
        let (harness, rows, kv_rows, lse_rows) = (self.harness, self.rows, self.kv_rows, self.lse_rows);
        // A copy, so that the backward pass can be repeated alone.
        let mut slot = self.slot.context("backward needs a forward pass before it")?;
        for (step, prepared) in cut.turns.iter().rev() {
            let window = slot.backward(step)?;
            let operands = Backward {
                q: view(harness, &self.q, rows)?.narrow(step.rows())?,
                kv: KvRef::packed(view(harness, &self.kv, kv_rows)?)?.narrow(window.clone())?,
                out: view(harness, &self.out, rows)?.narrow(step.rows())?,
                lse: view(harness, &self.lse, lse_rows)?.narrow(step.rows())?,
                dout: view(harness, &self.dout, rows)?.narrow(step.rows())?,
                dq: view_mut(harness, &mut self.dq, rows)?.narrow(step.rows())?,
                dkv: KvMut::packed(view_mut(harness, &mut self.dkv, kv_rows)?)?.narrow(window)?,
            };
            harness.device().backward(prepared, operands, harness.view_mut(&mut self.scratch))?;
        }
        harness.synchronise();
        Ok(())
    }
}

fn zeros<H: Harness, T: Scalar>(harness: &H, n: usize) -> H::Buffer<T> {
    harness.upload(&vec![T::default(); n])
}

fn view<'a, H: Harness, T: Scalar>(
    harness: &H,
    buffer: &'a H::Buffer<T>,
    layout: Layout,
) -> Result<RowsRef<'a, SpaceOf<H>, T>, ViewError> {
    RowsRef::new(harness.view(buffer), layout)
}

fn view_mut<'a, H: Harness, T: Scalar>(
    harness: &H,
    buffer: &'a mut H::Buffer<T>,
    layout: Layout,
) -> Result<RowsMut<'a, SpaceOf<H>, T>, ViewError> {
    RowsMut::new(harness.view_mut(buffer), layout)
}
