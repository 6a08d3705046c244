//! Copies of a prefix share their weights and nothing else.

use marill_model::Prefix;
use marill_partition::testing::tiny_base;

#[test]
fn a_fork_in_the_middle_of_a_prompt_starts_empty_and_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_base(folder.path(), 1).unwrap();
    let tokens = [3, 1, 4, 1, 5];
    let mut first = Prefix::new(&base, 2).unwrap();
    let expected = first.forward(&tokens).unwrap();

    let mut second = first.fork();
    assert!(second.is_empty());
    let further = first.forward(&[9, 2]).unwrap();
    assert_eq!(second.forward(&tokens).unwrap(), expected);
    assert_eq!(second.forward(&[9, 2]).unwrap(), further, "each has a cache of its own");
    assert_eq!((first.len(), second.len()), (7, 7));
}
