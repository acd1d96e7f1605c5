//! Ranks that disagree, or whose slots cannot be moved.

use crate::Process;
use microseq::ranks::mpi::bindings::Threading;
use microseq::ranks::mpi::bindings::traits::{Communicator, Destination, Source};
use microseq::ranks::mpi::{MpiError, MpiRanks};
use microseq::{
    Agreement, Attention, Call, Collective, DType, Element, Field, Host, KvMut, Layout, Occasion, Operand,
    Plan, Ranks, RanksError, RowsMut, ShapeError, Step, bf16,
};
use std::time::Duration;

const LENGTHS: [u32; 3] = [4, 1, 10];

fn plan() -> Plan<'static> {
    Plan::new(&LENGTHS, 5).unwrap()
}

pub(crate) fn attention() -> Attention {
    Attention::new(2, 1, 4).unwrap()
}

pub(crate) fn agreement(ranks: usize) -> Agreement {
    Agreement::new(&plan(), &attention(), DType::F32, ranks)
}

pub(crate) fn step(n: usize) -> Step<'static> {
    plan().steps().nth(n).unwrap()
}

fn view<E: Element>(memory: &mut [E], layout: Layout) -> KvMut<'_, Host, E> {
    KvMut::packed(RowsMut::of_slice(memory, layout).unwrap()).unwrap()
}

fn apart<'a>(k: &'a mut [f32], v: &'a mut [f32], layout: Layout) -> KvMut<'a, Host, f32> {
    KvMut::separate(RowsMut::of_slice(k, layout).unwrap(), RowsMut::of_slice(v, layout).unwrap()).unwrap()
}

/// A gather of ones.
pub(crate) fn gather<E: Element>(
    ranks: &mut MpiRanks<'_>,
    step: &Step<'_>,
    layer: u32,
    attention: Attention,
) -> Result<(), MpiError> {
    let layout = attention.kv_layout(step.write().len());
    let mut memory = vec![E::from_f32(1.0); layout.rows() * layout.row_stride()];
    ranks.gather(layer, step, view(&mut memory, layout), || ())
}

fn reduce(ranks: &mut MpiRanks<'_>, step: &Step<'_>) -> Result<(), MpiError> {
    let layout = attention().kv_layout(step.write().len());
    let mut memory = vec![1.0; layout.rows() * layout.row_stride()];
    ranks.reduce(0, step, view(&mut memory, layout), || ())
}

/// How many kinds were reported as they should be.
pub(crate) fn all(process: &Process) -> usize {
    misfits(process);
    if process.size == 1 {
        return 1;
    }
    meanwhile(process);
    2 + agreements(process) + calls(process) + absences(process) + panics(process)
}

/// Refused before anything moves; the group goes on.
fn misfits(process: &Process) {
    let mut group = process.group(&agreement(process.size)).unwrap();
    let step = step(0);
    let short = attention().kv_layout(4);
    let mut memory = vec![0.5f32; 200];
    let result = group.gather(0, &step, view(&mut memory, short), || panic!("the work was done"));
    let shape = ShapeError::Rows { operand: Operand::K, expected: 5, given: 4 };
    assert_eq!(result, Err::<(), _>(RanksError::Shape(shape).into()));
    let gaps = attention().kv_layout(5).with_row_stride(20);
    let result = group.reduce(0, &step, view(&mut memory, gaps), || panic!("the work was done"));
    let Err::<(), _>(MpiError::Ranks(RanksError::NotDense { row_stride: 20, rows: 5, .. })) = result else {
        panic!("{result:?}")
    };
    assert!(memory.iter().all(|&x| x == 0.5));
    gather::<f32>(&mut group, &step, 0, attention()).unwrap();

    // Keys and values apart, as two runs.
    let (rank, size) = (group.rank(), group.size());
    let own = step.write_share(rank, size).unwrap();
    let layout = Layout::dense(5, 1, 4);
    let filled = |sign: f32| -> Vec<f32> {
        (0..20).map(|n| if own.contains(&(n / 4)) { sign * n as f32 } else { f32::NAN }).collect()
    };
    let (mut k, mut v) = (filled(1.0), filled(-1.0));
    let kv = apart(&mut k, &mut v, layout);
    assert_eq!(group.gather(0, &step, kv, || 5), Ok(5));
    let expected: Vec<f32> = (0..20).map(|n| n as f32).collect();
    assert_eq!(k, expected);
    let kv = apart(&mut k, &mut v, layout);
    group.reduce(0, &step, kv, || ()).unwrap();
    for row in own {
        for n in 4 * row..4 * row + 4 {
            assert_eq!((k[n], v[n]), (size as f32 * n as f32, -(size as f32) * n as f32));
        }
    }
}

/// Rank 1's gather is over while rank 0 still does something else: rows travel meanwhile, if MPI lets a
/// thread of the group's own move them.
fn meanwhile(process: &Process) {
    if process.threads != Threading::Multiple {
        return;
    }
    let mut group = process.group(&agreement(process.size)).unwrap();
    let layout = attention().kv_layout(5);
    let mut memory = vec![1.0f32; layout.rows() * layout.row_stride()];
    let other_work = || match process.rank {
        0 => process.world.process_at_rank(1).receive::<i32>().0,
        _ => 5,
    };
    assert_eq!(group.gather(0, &step(0), view(&mut memory, layout), other_work), Ok(5));
    if process.rank == 1 {
        process.world.process_at_rank(0).send(&5i32);
    }
}

/// Rank 1 was given something else.
fn agreements(process: &Process) -> usize {
    let size = process.size;
    let other = |lengths: &[u32], micro, attention: Attention, dtype, ranks| {
        Agreement::new(&Plan::new(lengths, micro).unwrap(), &attention, dtype, ranks)
    };
    let disagreements = [
        (Field::Lengths, other(&[1, 4, 10], 5, attention(), DType::F32, size)),
        (Field::MicroSequenceLength, other(&LENGTHS, 4, attention(), DType::F32, size)),
        (Field::DType, other(&LENGTHS, 5, attention(), DType::F16, size)),
        (Field::HeadDim, other(&LENGTHS, 5, Attention::new(2, 1, 8).unwrap(), DType::F32, size)),
        (Field::Ranks, other(&LENGTHS, 5, attention(), DType::F32, size + 1)),
    ];
    for (expected, agreed) in &disagreements {
        let own = if process.rank == 1 { agreed } else { &agreement(size) };
        match process.group(own).err() {
            Some(MpiError::Ranks(RanksError::Differs { rank, field, .. })) => {
                assert_eq!((field, rank == 1), (*expected, process.rank != 1));
            }
            Some(MpiError::Ranks(RanksError::Size { agreed, size })) => {
                assert_eq!((process.rank, agreed), (1, size + 1));
            }
            error => panic!("rank {}, {expected:?}: {error:?}", process.rank),
        }
        process.meet();
    }
    disagreements.len()
}

/// A collective that rank 1 makes, and whether it is the one that the others name.
type Other = (fn(&mut MpiRanks<'_>) -> Result<(), MpiError>, fn(&Call) -> bool);

/// Rank 1 is at another collective.
fn calls(process: &Process) -> usize {
    let others: [Other; 5] = [
        (|group| gather::<f32>(group, &step(2), 0, attention()), |call| call.step == 2),
        (|group| gather::<f32>(group, &step(1), 3, attention()), |call| call.layer == 3),
        (|group| reduce(group, &step(1)), |call| call.collective == Collective::Reduce),
        (
            |group| gather::<f32>(group, &step(1), 0, Attention::new(2, 2, 4).unwrap()),
            |call| call.kv_heads == 2,
        ),
        (|group| gather::<bf16>(group, &step(1), 0, attention()), |call| call.dtype == DType::Bf16),
    ];
    for (make, names) in &others {
        let mut group = process.group(&agreement(process.size)).unwrap();
        let result = match process.rank {
            1 => make(&mut group),
            _ => gather::<f32>(&mut group, &step(1), 0, attention()),
        };
        let error = result.unwrap_err();
        let MpiError::Ranks(RanksError::OtherCall { rank, there, here }) = &error else { panic!("{error}") };
        assert_eq!(*rank == 1, process.rank != 1);
        assert!(names(if process.rank == 1 { here } else { there }), "{error}");
        // From then on the same.
        assert_eq!(gather::<f32>(&mut group, &step(1), 0, attention()), Err(error));
        process.meet();
    }
    others.len()
}

/// Rank 1 does not come, or comes when the others have given up.
fn absences(process: &Process) -> usize {
    let short = Duration::from_millis(200);
    let mut group = process.group(&agreement(process.size)).unwrap();
    process.meet();
    if process.rank != 1 {
        group.set_timeout(short);
        let error = gather::<f32>(&mut group, &step(1), 0, attention()).unwrap_err();
        let MpiError::Ranks(RanksError::Absent { rank: 1, occasion: Occasion::Call(call), waited }) = error
        else {
            panic!("{error}")
        };
        assert_eq!((call.step, waited), (1, short));
    }
    process.meet();
    if process.rank == 1 {
        group.set_timeout(short);
        let error = gather::<f32>(&mut group, &step(1), 0, attention()).unwrap_err();
        let MpiError::Ranks(RanksError::Left { rank, .. }) = error else { panic!("{error}") };
        assert_ne!(rank, 1);
    }
    process.meet();
    1
}

/// Rank 1 panics in the work that it does meanwhile. The others get its rows, and miss it afterwards.
fn panics(process: &Process) -> usize {
    let mut group = process.group(&agreement(process.size)).unwrap();
    if process.rank == 1 {
        let layout = attention().kv_layout(5);
        let mut memory = vec![1.0f32; 200];
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = group.gather(0, &step(0), view(&mut memory, layout), || panic!("on purpose"));
        }));
        std::panic::set_hook(hook);
        assert!(unwound.is_err());
        let error = gather::<f32>(&mut group, &step(1), 0, attention()).unwrap_err();
        assert!(matches!(error, MpiError::Ranks(RanksError::Left { rank: 1, .. })), "{error}");
    } else {
        gather::<f32>(&mut group, &step(0), 0, attention()).unwrap();
        group.set_timeout(Duration::from_millis(200));
        let error = gather::<f32>(&mut group, &step(1), 0, attention()).unwrap_err();
        assert!(matches!(error, MpiError::Ranks(RanksError::Absent { rank: 1, .. })), "{error}");
    }
    process.meet();
    1
}
