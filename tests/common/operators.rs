//! Attention operators that between them reach every way through a kernel.

use microseq::Attention;

/// Causal operators: head_dims of one element, odd, of a vector, larger than any tile; every
/// grouping; windows, scales and softcaps.
pub(crate) fn causal() -> Vec<Attention> {
    let new = |heads, kv_heads, head_dim| Attention::new(heads, kv_heads, head_dim).unwrap();
    vec![
        new(2, 2, 1),
        new(4, 2, 16),
        new(3, 1, 33).with_window(20).unwrap(),
        // A window of more keys than any tile.
        new(2, 1, 24).with_window(100).unwrap(),
        new(4, 1, 64),
        new(2, 1, 80).with_softcap(3.0).unwrap(),
        new(2, 2, 128).with_window(1).unwrap(),
        new(4, 1, 32).with_window(3).unwrap(),
        new(3, 1, 48).with_window(5).unwrap().with_softcap(2.0).unwrap(),
        new(3, 1, 160).with_window(50).unwrap().with_softcap(5.0).unwrap().with_scale(0.2).unwrap(),
        new(1, 1, 512),
    ]
}

/// Operators under which every query may see later keys.
pub(crate) fn non_causal() -> Vec<Attention> {
    let new = |heads, kv_heads, head_dim| Attention::new(heads, kv_heads, head_dim).unwrap().non_causal();
    vec![new(4, 2, 24), new(2, 1, 64).with_window(9).unwrap(), new(2, 2, 96).with_softcap(2.0).unwrap()]
}
