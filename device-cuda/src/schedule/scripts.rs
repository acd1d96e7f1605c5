//! The scripts that check the kernels through PyTorch make lists of their own: these are the crate's.
//! `kernels/test/lists.py` keeps some in `lists.txt`, each behind the problem that it is of.

use super::{Schedule, wgmma};
use crate::prepared::{bytes_of_key_tile, bytes_of_walk};
use crate::shape::{Shape, WgmmaBackward};
use microseq_core::{Attention, DType, Plan, Problem};

#[test]
fn lists_are_those_of_the_scripts() {
    let kept = include_str!("../../kernels/test/lists.txt");
    let made: String = kept.lines().filter_map(|line| line.strip_prefix("problem ")).map(lists_of).collect();
    assert!(made.lines().count() > 500);
    for (made, kept) in made.lines().zip(kept.lines()) {
        assert_eq!(made, kept);
    }
    assert_eq!(made.lines().count(), kept.lines().count());
}

/// As text, what the line `problem` names.
fn lists_of(problem: &str) -> String {
    let (numbers, lengths) = problem.split_once(" (").expect("lengths");
    let parse = |word: &str| word.parse::<usize>().expect("a number");
    let numbers: Vec<_> = numbers.split(' ').map(parse).collect();
    let [heads, kv_heads, head_dim, causal, window, micro, blocks, zeroed] = numbers[..] else {
        panic!("eight numbers: {problem}")
    };
    let lengths = lengths.trim_end_matches([')', ',']).split(", ");
    let lengths: Vec<_> = lengths.map(|length| parse(length) as u32).collect();
    let mut attention = Attention::new(heads, kv_heads, head_dim).expect("heads");
    if window > 0 {
        attention = attention.with_window(window).expect("window");
    }
    if causal == 0 {
        attention = attention.non_causal();
    }
    let mut text = format!("problem {problem}\n");
    for step in Plan::new(&lengths, micro).expect("legal").steps() {
        let problem = Problem::new(attention, step, DType::Bf16).expect("legal");
        let problem = if zeroed == 1 { problem.on_zeroed_store() } else { problem };
        text += &of_hopper(&problem, blocks);
        text += &of_every_gpu(&problem, blocks);
    }
    text
}

fn of_hopper(problem: &Problem<'_>, blocks: usize) -> String {
    let shape = WgmmaBackward::compiled(problem.attention().head_dim());
    let lists = wgmma::Backward::new(problem, &shape, blocks).expect("small");
    let tiles = lists.keys.iter().map(|tile| line("tile", bytes_of_key_tile(*tile)));
    format!("step {}\n", lists.counters) + &tiles.collect::<String>()
}

fn of_every_gpu(problem: &Problem<'_>, blocks: usize) -> String {
    let shape = Shape::choose(DType::Bf16, problem.attention().head_dim(), 163 << 10);
    let cuts = shape.cuts(problem.attention());
    let lists = Schedule::new(problem, &shape, cuts, blocks).expect("small");
    let walks = lists.keys.iter().map(|walk| line("walk", bytes_of_walk(*walk)));
    format!("for every GPU {} {}\n", lists.turns, lists.counters) + &walks.collect::<String>()
}

fn line(name: &str, bytes: impl Iterator<Item = u8>) -> String {
    let bytes: Vec<_> = bytes.collect();
    let words = bytes.chunks_exact(4).map(|word| i32::from_ne_bytes(word.try_into().expect("four")));
    words.fold(name.to_owned(), |line, word| format!("{line} {word}")) + "\n"
}
