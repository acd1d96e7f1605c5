//! What a rank holds of keys, values and their gradients.

use microseq::{Attention, DType, Plan};

/// Bytes for all layers: of the slots, and of a runtime that concatenates keys and values anew for
/// each step.
pub(crate) struct Memory {
    pub(crate) slot_kv: usize,
    pub(crate) slot_gradients: usize,
    /// Each step saves the keys and values of its window for its backward.
    pub(crate) concatenated_kv: usize,
    /// At the worst step: the gradient of its concatenated window, and what later steps left for
    /// the rows up to its end. Rounded to the element type between steps.
    pub(crate) concatenated_gradients: usize,
}

impl Memory {
    pub(crate) fn new(plan: &Plan<'_>, attention: &Attention, dtype: DType, layers: usize) -> Self {
        let row = layers * 2 * attention.kv_heads() * attention.head_dim();
        let element = if dtype == DType::F32 { 4 } else { 2 };
        let windows = plan.steps().map(|step| step.window().len()).sum::<usize>();
        Self {
            slot_kv: plan.tokens() * row * element,
            slot_gradients: plan.tokens() * row * size_of::<f32>(),
            concatenated_kv: windows * row * element,
            concatenated_gradients: peak_gradient_rows(plan) * row * element,
        }
    }
}

fn peak_gradient_rows(plan: &Plan<'_>) -> usize {
    let later = plan.steps().skip(1).map(|step| step.first_document_begin()).chain([plan.tokens()]);
    let rows =
        plan.steps().zip(later).map(|(step, later)| step.window().len() + step.end() - later.min(step.end()));
    rows.max().unwrap_or(0)
}
