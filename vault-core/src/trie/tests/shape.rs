//! What the tree looks like: it does not remember what was removed, and a shred writes little.

use super::*;

async fn with(keys: &[EntryKey], kind: Kind, payload: usize) -> World {
    let mut world = World::on(Arc::new(MemoryStore::new())).await;
    let mut edits = Edits::new();
    keys.iter().for_each(|key| edits.insert(kind, *key, Zeroizing::new(vec![1; payload])));
    world.data(edits).await;
    world
}

#[tokio::test]
async fn what_is_left_takes_as_many_pages_as_if_nothing_else_had_been() {
    for (left, payload) in [(1, 20), (5, 60), (40, 20), (300, 60)] {
        let mut dice = Dice(left as u64);
        let keys: Vec<EntryKey> = (0..3000).map(|_| dice.key()).collect();
        let mut world = with(&keys, Kind::Directory, payload).await;
        assert!(world.page_rows > 100);
        for doomed in keys[left..].chunks(500) {
            let mut edits = Edits::new();
            doomed.iter().for_each(|key| edits.remove(Kind::Directory, *key));
            world.forget(edits).await;
        }
        let fresh = with(&keys[..left], Kind::Directory, payload).await;
        // A leaf between half full and full may be one page or a few, depending on where it came from.
        let (shrunk, fresh) = (world.page_rows, fresh.page_rows);
        assert!(shrunk >= fresh && shrunk <= 2 * fresh + 16, "{shrunk} pages, {fresh} in a fresh trie of {left}");
        let expected: Model = keys[..left].iter().map(|key| ((Kind::Directory, *key), vec![1; payload])).collect();
        world.agrees_with(&expected).await;
    }
}

#[tokio::test]
async fn long_common_prefixes_take_no_chain_of_pages() {
    let mut one = [7; 32];
    one[31] = 0;
    let two = [7; 32];
    let most_of_a_leaf = LEAF_BYTES * 2 / 3;
    let mut world = with(&[one, two], Kind::Directory, most_of_a_leaf).await;
    assert_eq!(world.page_rows, 3, "one inner page that skips 62 nibbles, and two leaves");
    let mut edits = Edits::new();
    let mut three = two;
    three[10] = 0;
    edits.insert(Kind::Directory, three, Zeroizing::new(vec![1; most_of_a_leaf]));
    world.data(edits).await;
    assert_eq!(world.page_rows, 5, "the skip parted");
    let mut edits = Edits::new();
    edits.remove(Kind::Directory, three);
    world.forget(edits).await;
    assert_eq!(world.page_rows, 3, "and was joined again");
    let mut edits = Edits::new();
    edits.remove(Kind::Directory, one);
    world.forget(edits).await;
    assert_eq!(world.page_rows, 1);
}

/// In numbers: 20,000 subjects with one directory entry and two lookups each; one of them is shredded.
#[tokio::test]
async fn a_shred_writes_little() {
    let mut dice = Dice(11);
    let mut world = World::on(Arc::new(MemoryStore::new())).await;
    let subjects: Vec<[EntryKey; 3]> = (0..20_000).map(|_| [dice.key(), dice.key(), dice.key()]).collect();
    for some in subjects.chunks(5000) {
        let mut edits = Edits::new();
        for [subject, phone, email] in some {
            edits.insert(Kind::Directory, *subject, Zeroizing::new(vec![1; 190]));
            edits.insert(Kind::Lookups, *phone, Zeroizing::new(vec![1; 8]));
            edits.insert(Kind::Lookups, *email, Zeroizing::new(vec![1; 8]));
        }
        world.data(edits).await;
    }
    let mut written = Vec::new();
    for [subject, phone, email] in &subjects[..50] {
        let mut edits = Edits::new();
        edits.remove(Kind::Directory, *subject);
        edits.remove(Kind::Lookups, *phone);
        edits.remove(Kind::Lookups, *email);
        written.push(world.forget(edits).await);
    }
    let most = written.iter().max().unwrap();
    assert!(*most < 11_000, "a shred wrote {most} bytes");
    let mut one = Edits::new();
    one.insert(Kind::Lookups, dice.key(), Zeroizing::new(vec![]));
    let bytes = world.data(one).await;
    assert!(bytes < LEAF_BYTES + 200, "an insertion wrote {bytes} bytes: more than its leaf");
}
