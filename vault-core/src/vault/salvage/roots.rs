//! The way in: any slot that opens, and the newest of its roots that opens a header. Nothing is written to a slot.

use super::SalvageReport;
use crate::error::Error;
use crate::memory;
use crate::root::{FileSlot, RootEntry, RootError, RootSlot, SlotError, SlotPlace, Unlock};
use crate::store::Store;
use crate::trie::Header;
use crate::vault::meta::{self, MetaHead};

/// The slots that open with this unlock key; one is enough.
pub(super) async fn open_slots(
    places: &[SlotPlace],
    unlock: Unlock,
    report: &mut SalvageReport,
) -> Result<Vec<FileSlot>, Error> {
    let places = places.to_vec();
    let tried = memory::blocking(move || {
        let open = |place| {
            let slot = FileSlot::open_place(place)?;
            slot.unlock(&unlock).map(|()| slot)
        };
        places.iter().map(open).collect::<Vec<Result<FileSlot, SlotError>>>()
    });
    let (mut slots, mut errors) = (Vec::new(), Vec::new());
    for outcome in tried.await.map_err(|_| Error::Failed)? {
        match outcome {
            Ok(slot) => slots.push(slot),
            Err(error) => errors.push(error),
        }
    }
    if slots.is_empty() {
        let none = Error::Invalid { field: "slots", expected: "at least one root slot" };
        return Err(errors.into_iter().next().map_or(none, Error::from));
    }
    errors.iter().for_each(|error| report.problem(error.to_string()));
    Ok(slots)
}

/// The META record, if it is there.
pub(super) async fn meta_row(store: &dyn Store, report: &mut SalvageReport) -> Result<Option<Vec<u8>>, Error> {
    let row = super::opened(store.get(meta::KEY).await.map_err(Error::from))?.flatten();
    if row.is_none() {
        report.problem("the META record is missing: how much there should be is not known".to_owned());
    }
    Ok(row)
}

/// The newest header that a root of the slots opens. Roots that are retained for a backup are none of the store's: an older
/// copy of it would open with them, and with it who was shredded since.
pub(super) async fn header(
    store: &dyn Store,
    slots: &[FileSlot],
    meta: Option<&[u8]>,
    report: &mut SalvageReport,
) -> Result<Header, Error> {
    let (mut roots, mut errors) = (Vec::new(), Vec::new());
    for slot in slots {
        match slot.read().await {
            Ok(reading) => {
                let own = reading.entries.into_iter().filter(|entry| !entry.retained);
                roots.extend(own.map(|root| (slot.vault(), root)));
            }
            Err(error) => errors.push(error),
        }
    }
    errors.iter().for_each(|error| report.problem(error.to_string()));
    if roots.is_empty() {
        return Err(RootError::NoSlot(errors).into());
    }
    roots.sort_by_key(|(_, root)| std::cmp::Reverse(root.epoch));
    for (vault, root) in &roots {
        let row = super::opened(store.get(&Header::row_key(&root.key)).await.map_err(Error::from))?.flatten();
        if let Some(header) = row.and_then(|sealed| Header::open(&root.key, *vault, &sealed).ok()) {
            return Ok(header);
        }
    }
    Err(none_opens(&roots.into_iter().map(|(_, root)| root).collect::<Vec<_>>(), meta).into())
}

/// Why, as far as the epoch in the META record tells.
fn none_opens(roots: &[RootEntry], meta: Option<&[u8]>) -> RootError {
    let epochs = || roots.iter().map(|root| root.epoch);
    let (oldest, newest) = (epochs().min().unwrap_or(0), epochs().max().unwrap_or(0));
    match meta.and_then(|row| MetaHead::decode(row).ok()).map_or(newest, |head| head.epoch) {
        store_epoch if store_epoch < oldest => RootError::OlderThanSlot { store_epoch, slot_epoch: oldest },
        store_epoch if store_epoch > newest => RootError::NewerThanSlot { store_epoch, slot_epoch: newest },
        store_epoch => RootError::HeaderDamaged { store_epoch },
    }
}
