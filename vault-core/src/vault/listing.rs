//! Which of a subject's lists of lookup entries is of which generation: one outside a rotation of lookups, two in it.
//!
//! While a generation is built, whatever changes what a subject is found by changes both lists, and both subtrees. While
//! one retires nothing is added to it any more; its entries are taken out like all others of a subject that is shredded.

use super::records::{LookupRef, SubjectRecord};
use super::subject;
use super::writer::Write;
use crate::crypto::TagKey;
use crate::crypto::tag::Tag;
use crate::trie::{EntryKey, Header, Kind, Op, Payload, Side};

/// A list that is kept up to date, and what makes its tags.
pub(crate) struct Listing<'a> {
    pub(crate) refs: &'a mut Vec<LookupRef>,
    pub(crate) tags: &'a TagKey,
    side: Side,
}

impl Listing<'_> {
    /// Has a write put an entry into its subtree.
    pub(crate) fn insert(&self, tag: Tag, directory: &EntryKey, write: &mut Write) {
        edit(self.side, subject::lookup_entry(tag, directory), Op::Insert(Payload::default()), write);
    }
}

impl SubjectRecord {
    /// The lists that a change of what it is found by has to change: of the serving generation first.
    pub(crate) fn listings<'a>(&'a mut self, header: &'a Header) -> Vec<Listing<'a>> {
        let tags = header.tag_key(Kind::Lookups);
        let Self { lookups, next_lookups, lookups_generation, .. } = self;
        let serving = |refs| Listing { refs, tags, side: Side::Serving };
        if *lookups_generation != header.generation(Kind::Lookups) {
            return vec![serving(next_lookups)];
        }
        let mut listings = vec![serving(lookups)];
        if let Some(tags) = header.next_tag_key(Kind::Lookups) {
            listings.push(Listing { refs: next_lookups, tags, side: Side::Beside });
        }
        listings
    }

    /// What it is found by in the serving generation.
    pub(crate) fn found_by(&self, header: &Header) -> &[LookupRef] {
        match self.lookups_generation == header.generation(Kind::Lookups) {
            true => &self.lookups,
            false => &self.next_lookups,
        }
    }

    /// Whether a tag of the serving generation is of one of its present values.
    pub(crate) fn is_found_by(&self, header: &Header, tag: Tag) -> bool {
        self.found_by(header).iter().any(|listed| listed.live && listed.tag == tag)
    }

    /// Everything that is listed, of every generation.
    pub(crate) fn all_lookups(&self) -> impl Iterator<Item = &LookupRef> {
        self.lookups.iter().chain(&self.next_lookups)
    }

    /// Has a root batch take out what is `doomed` of its entries, and its lists.
    pub(crate) fn forget_lookups(
        &mut self,
        header: &Header,
        directory: &EntryKey,
        doomed: impl Fn(&LookupRef) -> bool,
        write: &mut Write,
    ) {
        let generation = self.lookups_generation;
        for (refs, generation) in [(&mut self.lookups, generation), (&mut self.next_lookups, generation + 1)] {
            for gone in refs.iter().filter(|listed| doomed(listed)) {
                if let Some(side) = side_of(header, generation) {
                    edit(side, subject::lookup_entry(gone.tag, directory), Op::Remove, write);
                }
            }
            refs.retain(|listed| !doomed(listed));
        }
        write.lookups = Some(header.generations(Kind::Lookups));
    }
}

fn side_of(header: &Header, generation: u32) -> Option<Side> {
    let generations = header.generations(Kind::Lookups);
    match generations.beside {
        _ if generation == generations.serving => Some(Side::Serving),
        Some((beside, _)) if generation == beside => Some(Side::Beside),
        _ => None,
    }
}

fn edit(side: Side, entry: EntryKey, op: Op, write: &mut Write) {
    match side {
        Side::Serving => write.edits.push((Kind::Lookups, entry, op)),
        Side::Beside => write.beside.push((entry, op)),
    }
}
