//! Blocks: reference counts, and the copies that a step requests.

use super::*;
use crate::EngineError;
use crate::kernels::KV_BLOCK_SIZE;

#[test]
fn blocks_are_shared_by_forks_copied_when_written_and_given_back() {
    let pool = BlockPool::new(4, 100, true);
    let mut copies = Vec::new();
    let mut first = pool.cache();
    first.reserve(KV_BLOCK_SIZE + 5, &mut copies).unwrap();
    first.advance(KV_BLOCK_SIZE + 5);
    assert_eq!((pool.free(), pool.bytes(), first.bytes(), copies.len()), (2, 200, 200, 0));
    let mut second = first.fork(KV_BLOCK_SIZE + 3);
    assert_eq!((second.len(), second.table(), pool.free()), (KV_BLOCK_SIZE + 3, first.table(), 2));
    // the full block stays shared, the other is copied on write
    assert_eq!((second.wants(1), first.wants(1)), (1, 1));
    second.reserve(1, &mut copies).unwrap();
    assert_eq!(copies, [(first.table()[1], second.table()[1])]);
    assert_eq!((second.table()[0], pool.free(), first.wants(1)), (first.table()[0], 1, 0));
    first.reserve(1, &mut copies).unwrap();
    assert_eq!(copies.len(), 1);
    // a fork at a block boundary needs no copy
    let mut third = first.fork(KV_BLOCK_SIZE);
    third.reserve(1, &mut copies).unwrap();
    assert_eq!((copies.len(), pool.free(), pool.high_water()), (1, 0, 4));
    assert!(matches!(
        second.reserve(2 * KV_BLOCK_SIZE, &mut copies),
        Err(EngineError::OutOfBlocks { blocks: 4, .. })
    ));
    // a shared block is freed only when all its holders release it
    assert_eq!(
        (pool.freed_by([&first].into_iter()), pool.freed_by([&first, &second, &third].into_iter())),
        (1, 4)
    );
    third.truncate(0);
    assert_eq!((pool.free(), third.bytes()), (1, 0));
    drop(first);
    assert_eq!(pool.free(), 2);
    drop((second, third));
    assert_eq!((pool.free(), pool.bytes(), pool.high_water()), (4, 0, 4));
}
