//! Ranks that disagree, leave, or do not come: an error on the others that says so, never a hang.
//!
//! Waits that must end with an error are given either long timeouts, where the error is known at once,
//! or very short ones, where nothing but the timeout can end them.

use crate::group::{Error, Rank, each_rank, join};
use microseq::ranks::seats;
use microseq::{
    Agreement, Attention, Call, Collective, DType, Element, Field, Host, KvMut, Occasion, Plan, Ranks,
    RanksError, RowsMut, ShapeError, Step, StepError, bf16,
};
use std::time::Duration;

const LENGTHS: [u32; 3] = [4, 1, 10];
const SHORT: Duration = Duration::from_millis(30);

fn plan() -> Plan<'static> {
    Plan::new(&LENGTHS, 5).unwrap()
}

fn attention() -> Attention {
    Attention::new(2, 1, 4).unwrap()
}

fn agreement(ranks: usize) -> Agreement {
    Agreement::new(&plan(), &attention(), DType::F32, ranks)
}

fn step(n: usize) -> Step<'static> {
    plan().steps().nth(n).unwrap()
}

fn group(seat: microseq::ranks::Seat, ranks: usize) -> Rank {
    join(seat, &agreement(ranks)).unwrap()
}

/// A gather of ones.
fn gather<E: Element>(
    rank: &mut Rank,
    step: &Step<'_>,
    layer: u32,
    attention: Attention,
) -> Result<(), Error> {
    let layout = attention.kv_layout(step.write().len());
    let mut memory = vec![E::from_f32(1.0); layout.rows() * layout.row_stride()];
    let rows = KvMut::packed(RowsMut::<Host, E>::of_slice(&mut memory, layout).unwrap()).unwrap();
    rank.gather(layer, step, rows, || ())
}

fn reduce(rank: &mut Rank, step: &Step<'_>) -> Result<(), Error> {
    let layout = attention().kv_layout(step.write().len());
    let mut memory = vec![1.0; layout.rows() * layout.row_stride()];
    let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
    rank.reduce(0, step, rows, || ())
}

#[test]
fn ranks_that_were_given_something_else_are_named_when_the_group_is_made() {
    let other = |lengths: &'static [u32], micro, attention, dtype| {
        Agreement::new(&Plan::new(lengths, micro).unwrap(), &attention, dtype, 3)
    };
    let disagreements = [
        (Field::Lengths, other(&[1, 4, 10], 5, attention(), DType::F32)),
        (Field::Tokens, other(&[4, 1, 11], 5, attention(), DType::F32)),
        (Field::MicroSequenceLength, other(&LENGTHS, 4, attention(), DType::F32)),
        (Field::DType, other(&LENGTHS, 5, attention(), DType::Bf16)),
        (Field::KvHeads, other(&LENGTHS, 5, Attention::new(2, 2, 4).unwrap(), DType::F32)),
        (Field::HeadDim, other(&LENGTHS, 5, Attention::new(2, 1, 8).unwrap(), DType::F32)),
        (Field::Window, other(&LENGTHS, 5, attention().with_window(3).unwrap(), DType::F32)),
    ];
    for (field, agreed) in disagreements {
        let errors = each_rank(3, |seat| {
            let own = if seat.rank() == 2 { &agreed } else { &agreement(3) };
            join(seat, own).err()
        });
        for (rank, error) in errors.iter().enumerate() {
            match error {
                Some(RanksError::Differs { rank: other, field: named, .. }) => {
                    assert_eq!((*other == 2, *named), (rank != 2, field), "rank {rank}: {error:?}");
                }
                _ => panic!("rank {rank}, {field:?}: {error:?}"),
            }
        }
    }
}

#[test]
fn an_agreement_of_another_number_of_ranks_is_refused() {
    let errors = each_rank(2, |seat| join(seat, &agreement(3)).err());
    assert_eq!(errors, [Some(RanksError::Size { agreed: 3, size: 2 }); 2]);
    assert!(matches!(seats(0), Err(StepError::ZeroRanks)));
}

#[test]
fn a_rank_that_does_not_come_to_the_making_is_named() {
    let mut all = seats(3).unwrap();
    // Held, so that it has not left.
    let _third = all.pop().unwrap();
    let errors: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = { all }
            .into_iter()
            .map(|seat| scope.spawn(move || join(seat.with_timeout(SHORT), &agreement(3)).err()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let absent = RanksError::Absent { rank: 2, occasion: Occasion::Making, waited: SHORT };
    // Who gives up first has left.
    let left = |rank| RanksError::Left { rank, occasion: Occasion::Making };
    for (rank, error) in errors.into_iter().enumerate() {
        let error = error.unwrap();
        assert!(error == absent || error == left(1 - rank), "rank {rank}: {error}");
    }
}

#[test]
fn a_rank_that_does_not_come_to_a_collective_is_named() {
    let mut all = seats(2).unwrap();
    let (second, first) = (all.pop().unwrap(), all.pop().unwrap());
    let error = std::thread::scope(|scope| {
        let idle = scope.spawn(move || group(second, 2));
        let mut rank = group(first, 2);
        // Held, so that it has not left.
        let _idle = idle.join().unwrap();
        rank.set_timeout(SHORT);
        gather::<f32>(&mut rank, &step(0), 0, attention()).unwrap_err()
    });
    let Error::Ranks(RanksError::Absent { rank: 1, occasion: Occasion::Call(call), waited: SHORT }) = error
    else {
        panic!("{error}")
    };
    assert_eq!((call.collective, call.step, call.begin, call.end), (Collective::Gather, 0, 0, 5));
}

#[test]
fn a_rank_that_exits_in_mid_step_is_named() {
    for leaver in 0..3 {
        let errors = each_rank(3, |seat| {
            let mut rank = group(seat, 3);
            gather::<f32>(&mut rank, &step(0), 0, attention()).unwrap();
            if rank.rank() == leaver {
                return None;
            }
            let error = gather::<f32>(&mut rank, &step(1), 0, attention()).unwrap_err();
            // From then on the same.
            assert_eq!(reduce(&mut rank, &step(1)), Err(error.clone()));
            Some(error)
        });
        for (rank, error) in errors.iter().enumerate().filter(|(rank, _)| *rank != leaver) {
            match error {
                Some(Error::Ranks(RanksError::Left { rank: left, occasion: Occasion::Call(call) })) => {
                    assert_eq!((*left, call.step), (leaver, 1));
                }
                _ => panic!("rank {rank}: {error:?}"),
            }
        }
    }
}

#[test]
fn a_rank_that_panics_in_mid_step_is_named() {
    let mut all = seats(2).unwrap();
    let (second, first) = (all.pop().unwrap(), all.pop().unwrap());
    std::thread::scope(|scope| {
        let panics = scope.spawn(move || {
            let mut rank = group(second, 2);
            let layout = attention().kv_layout(5);
            let mut memory = vec![1.0f32; layout.rows() * layout.row_stride()];
            let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
            let _ = rank.gather(0, &step(0), rows, || panic!("on purpose"));
        });
        let mut rank = group(first, 2);
        // It had given its rows before it panicked, so the first gather may succeed.
        let first = gather::<f32>(&mut rank, &step(0), 0, attention());
        let second = first.and_then(|()| gather::<f32>(&mut rank, &step(1), 0, attention()));
        assert!(matches!(second, Err(Error::Ranks(RanksError::Left { rank: 1, .. }))), "{second:?}");
        assert!(panics.join().is_err());
    });
}

/// Each makes one collective; rank 1 another than rank 0 and rank 2.
fn at_odds(other: impl Fn(&mut Rank) -> Result<(), Error> + Sync) -> Vec<(Call, Call)> {
    let errors = each_rank(3, |seat| {
        let mut rank = group(seat, 3);
        let result = match rank.rank() {
            1 => other(&mut rank),
            _ => gather::<f32>(&mut rank, &step(1), 0, attention()),
        };
        result.unwrap_err()
    });
    let at = |error: &Error| match error {
        Error::Ranks(RanksError::OtherCall { there, here, .. }) => (*here, *there),
        error => panic!("{error}"),
    };
    for (rank, error) in errors.iter().enumerate() {
        match error {
            Error::Ranks(RanksError::OtherCall { rank: named, .. }) => assert_eq!(*named == 1, rank != 1),
            error => panic!("rank {rank}: {error}"),
        }
    }
    errors.iter().map(at).collect()
}

#[test]
fn ranks_at_another_step_layer_collective_shape_or_type_are_named() {
    let one = attention();
    let two = Attention::new(2, 2, 4).unwrap();
    let deep = Attention::new(2, 1, 8).unwrap();
    let calls = at_odds(|rank| gather::<f32>(rank, &step(2), 0, one));
    assert_eq!((calls[0].0.step, calls[0].1.step), (1, 2));
    assert_eq!((calls[1].0.step, calls[1].1.step), (2, 1));
    let calls = at_odds(|rank| gather::<f32>(rank, &step(1), 3, one));
    assert_eq!((calls[2].0.layer, calls[2].1.layer), (0, 3));
    let calls = at_odds(|rank| reduce(rank, &step(1)));
    assert_eq!(calls[0].1.collective, Collective::Reduce);
    let calls = at_odds(|rank| gather::<f32>(rank, &step(1), 0, two));
    assert_eq!((calls[0].0.kv_heads, calls[0].1.kv_heads), (1, 2));
    let calls = at_odds(|rank| gather::<f32>(rank, &step(1), 0, deep));
    assert_eq!((calls[0].0.head_dim, calls[0].1.head_dim), (4, 8));
    let calls = at_odds(|rank| gather::<bf16>(rank, &step(1), 0, one));
    assert_eq!((calls[0].0.dtype, calls[0].1.dtype), (DType::F32, DType::Bf16));
}

#[test]
fn rows_that_do_not_fit_are_refused_and_the_group_goes_on() {
    each_rank(2, |seat| {
        let mut rank = group(seat, 2);
        let layout = attention().kv_layout(4);
        let mut memory = vec![0.5f32; layout.rows() * layout.row_stride()];
        let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
        let result = rank.gather(0, &step(0), rows, || panic!("the work was done"));
        let shape = ShapeError::Rows { operand: microseq::Operand::K, expected: 5, given: 4 };
        assert_eq!(result, Err::<(), _>(RanksError::Shape(shape).into()));
        assert!(memory.iter().all(|&x| x == 0.5));
        gather::<f32>(&mut rank, &step(0), 0, attention()).unwrap();
    });
}
