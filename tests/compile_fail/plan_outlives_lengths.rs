//! A plan borrows its lengths.
use microseq::Plan;

fn main() {
    let plan = {
        let lengths = vec![4, 1, 10];
        Plan::new(&lengths, 5).unwrap()
    };
    plan.tokens();
}
