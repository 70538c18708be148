//! The ages of keys, and the policy on them.

#![allow(clippy::unwrap_used)]

use super::tests::{Fixture, id};
use super::*;
use crate::time::Timestamp;

const DAY: u64 = 24 * 3600;

fn policy(days: [u64; 5], rotates: bool) -> KeyPolicy {
    let [unlock, root, keks, deks, lookups] = days.map(|days| Some(days * DAY));
    KeyPolicy { unlock, root, keks, deks, lookups, lookups_shreds: Some(3), rotates, rate: None }
}

async fn fixture(days: [u64; 5], rotates: bool) -> Fixture {
    let mut fixture = Fixture::new().await;
    for n in 0..10 {
        fixture.put(&format!("s{n}"), &[("email", &format!(r#""user{n}@example.org""#))]).await.unwrap();
    }
    fixture.reopen(VaultOptions { keys: policy(days, rotates), ..VaultOptions::default() }).await;
    fixture
}

async fn of(fixture: &Fixture, layer: Layer) -> LayerStatus {
    *fixture.vault.keys().await.unwrap().of(layer).unwrap()
}

fn in_days(days: u64) -> Timestamp {
    Timestamp::now().plus_seconds(days * DAY)
}

async fn due_in(fixture: &Fixture, days: u64) -> Vec<&'static str> {
    let status = fixture.vault.keys().await.unwrap();
    // Taken last: what is due by shreds is due from when it was looked at.
    let at = in_days(days);
    status.layers.iter().filter(|layer| layer.is_due(at)).map(|layer| layer.layer.as_str()).collect()
}

async fn begins_at(fixture: &Fixture, at: Timestamp) -> Option<Layer> {
    let status = fixture.vault.keys().await.unwrap();
    fixture.vault.rotate_what_is_due(&status, at).await.unwrap()
}

#[tokio::test]
async fn each_layer_is_due_in_its_time() {
    let fixture = fixture([10, 20, 30, 40, 50], false).await;
    assert_eq!(due_in(&fixture, 0).await, [""; 0]);
    assert_eq!(due_in(&fixture, 11).await, ["unlock"]);
    assert_eq!(due_in(&fixture, 31).await, ["unlock", "root", "keks"]);
    assert_eq!(due_in(&fixture, 51).await, ["unlock", "root", "keks", "deks", "lookups"]);
    assert_eq!(begins_at(&fixture, in_days(51)).await, None, "it is only told");
}

#[tokio::test]
async fn what_is_due_rotates_by_itself_from_the_root_downwards() {
    let fixture = fixture([10, 30, 30, 30, 30], true).await;
    assert_eq!(begins_at(&fixture, in_days(11)).await, None, "only a person can replace an unlock key");
    let before = Timestamp::now();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    for layer in [Layer::Root, Layer::Keks, Layer::Deks, Layer::Lookups] {
        assert!(of(&fixture, layer).await.since <= before, "{layer:?}");
        // Those before it have just been rotated.
        let at = before.plus_seconds(30 * DAY);
        assert_eq!(begins_at(&fixture, at).await, Some(layer));
        let begun = fixture.vault.rotations().await.unwrap().pop().unwrap();
        assert_eq!(fixture.ended(begun.id).await.state, RotationState::Done);
        let after = of(&fixture, layer).await;
        assert!(after.since > before, "{layer:?}");
        assert_eq!(after.last.unwrap().id, begun.id);
    }
}

#[tokio::test]
async fn chosen_keys_make_a_layer_no_younger() {
    let fixture = fixture([10, 30, 30, 30, 30], true).await;
    let deks = Layer::Deks;
    let since = of(&fixture, deks).await.since;
    let chosen = DeksOf::Subjects(vec![id("s1")]);
    fixture.rotate(NewRotation::Deks { which: chosen, forget: false }).await;
    let status = of(&fixture, deks).await;
    assert_eq!((status.since, status.last), (since, None));
    fixture.rotate(NewRotation::Deks { which: DeksOf::OlderThan(1 << 40), forget: false }).await;
    assert_eq!(of(&fixture, deks).await.since, since, "nor does a bound that nothing is beyond");
    fixture.rotate(NewRotation::Deks { which: DeksOf::OlderThan(0), forget: false }).await;
    assert!(of(&fixture, deks).await.since > since);
}

#[tokio::test]
async fn lookups_are_due_after_so_many_shreds() {
    let mut fixture = fixture([30; 5], false).await;
    fixture.shred(&["s1", "s2"]).await;
    assert_eq!(due_in(&fixture, 0).await, [""; 0]);
    fixture.shred(&["s3"]).await;
    let options = VaultOptions { keys: policy([30; 5], false), ..VaultOptions::default() };
    fixture.reopen(options).await;
    assert_eq!(fixture.vault.keys().await.unwrap().shreds, 3);
    assert_eq!(due_in(&fixture, 0).await, ["lookups"]);
    fixture.rotate(Layer::Lookups).await;
    assert_eq!(due_in(&fixture, 0).await, [""; 0]);
    let status = fixture.vault.keys().await.unwrap();
    assert_eq!((status.shreds, status.of(Layer::Lookups).unwrap().version), (0, Some(2)));
    fixture.shred(&["s4"]).await;
    assert_eq!(fixture.vault.keys().await.unwrap().shreds, 1);
}

#[tokio::test]
async fn what_a_person_cancelled_rests_for_a_day() {
    let fixture = fixture([10, 30, 30, 30, 30], true).await;
    let begun = fixture.vault.rotate(Layer::Keks, Some(1), None).await.unwrap().made;
    fixture.vault.change_rotation(begun.id, Some(RotationState::Cancelled), None).await.unwrap();
    let status = fixture.vault.keys().await.unwrap();
    let overdue = LayerStatus { due: Some(Timestamp(0)), ..*status.of(Layer::Keks).unwrap() };
    let status = KeyStatus { layers: vec![overdue], ..status };
    let now = Timestamp::now();
    assert_eq!(fixture.vault.rotate_what_is_due(&status, now).await.unwrap(), None);
    let tomorrow = now.plus_seconds(DAY + 1);
    assert_eq!(fixture.vault.rotate_what_is_due(&status, tomorrow).await.unwrap(), Some(Layer::Keks));
}

#[tokio::test]
async fn old_rotations_are_forgotten_but_for_those_that_ages_are_told_from() {
    let fixture = fixture([10, 30, 30, 30, 30], false).await;
    for layer in [Layer::Lookups, Layer::Deks, Layer::Deks, Layer::Keks, Layer::Keks, Layer::Root, Layer::Root] {
        fixture.rotate(NewRotation::from(layer)).await;
    }
    let chosen = || NewRotation::Deks { which: DeksOf::Subjects(vec![id("s1")]), forget: false };
    fixture.rotate(chosen()).await;
    fixture.rotate(chosen()).await;
    fixture.shred(&["s2"]).await;
    let told = || async {
        let mut layers = fixture.vault.keys().await.unwrap().layers;
        // Forgetting is a root batch itself.
        let root = layers.iter_mut().find(|status| status.layer == Layer::Root).unwrap();
        (root.version, root.since, root.due) = (None, Timestamp(0), None);
        format!("{layers:?}")
    };
    let before = told().await;
    assert_eq!(fixture.vault.rotations().await.unwrap().len(), 9);

    let session = fixture.vault.session().unwrap();
    let forget = |at| rotate::forget_unlisted(&fixture.vault.inner, &session, at);
    assert_eq!(forget(in_days(29)).await.unwrap().len(), 0, "they are listed");
    for write in forget(in_days(31)).await.unwrap() {
        assert!(session.finalize(write).await.unwrap().held);
    }
    // One of each layer; of deks the last of all and the last of chosen ones.
    assert_eq!(fixture.vault.rotations().await.unwrap().len(), 5);
    assert_eq!(told().await, before);
    assert_eq!(forget(in_days(365)).await.unwrap().len(), 0);
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, [""; 0]);
}
