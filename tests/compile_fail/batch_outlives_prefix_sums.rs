//! A batch borrows its prefix sums.
use microseq::{Batch, Varlen};

fn main() {
    let batch: Batch<'_> = {
        let cu_seqlens = vec![0, 4, 5];
        Varlen::new(&cu_seqlens, &cu_seqlens, 5, 5).unwrap().into()
    };
    batch.q_rows();
}
