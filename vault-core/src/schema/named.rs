//! Entries under names, in the order they were declared; a name stands once.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What can stand under a name.
pub trait Entry<'de>: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's, for anything else.
    fn read<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error>;
}

/// Reads a table as such: serde would take a list of its values too.
pub(super) fn table<'de, T: Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    input.deserialize_map(Strict(PhantomData))
}

struct Strict<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Strict<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries))
    }
}

/// Reads one entry.
struct Value<V>(PhantomData<V>);

impl<'de, V: Entry<'de>> DeserializeSeed<'de> for Value<V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<V, D::Error> {
        V::read(input)
    }
}

/// A table whose order is kept, so that people find their document as they wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<K, V>(Vec<(K, V)>);

impl<K, V> Default for Named<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V> Named<K, V> {
    /// The entry of this name.
    pub fn find(&self, name: &K) -> Option<&V> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, entry)| entry)
    }
}

impl<K, V> Named<K, V> {
    /// Name and entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, entry)| (key, entry))
    }

    /// The entries, to change them in place.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, entry)| entry)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Orders the entries by what `place` says of their names.
    pub(super) fn order_by(&mut self, place: impl Fn(&K) -> usize) {
        self.0.sort_by_key(|(key, _)| place(key));
    }
}

impl<K: Serialize, V: Serialize> Serialize for Named<K, V> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.iter())
    }
}

impl<'de, K, V> Deserialize<'de> for Named<K, V>
where
    K: Deserialize<'de> + Ord + Clone + fmt::Display,
    V: Entry<'de>,
{
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(Table(PhantomData))
    }
}

struct Table<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> Visitor<'de> for Table<K, V>
where
    K: Deserialize<'de> + Ord + Clone + fmt::Display,
    V: Entry<'de>,
{
    type Value = Named<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Named<K, V>, A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        let mut named = Vec::new();
        while let Some(key) = entries.next_key::<K>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format_args!("`{key}` is declared twice: leave one of them out")));
            }
            named.push((key, entries.next_value_seed(Value(PhantomData))?));
        }
        Ok(Named(named))
    }
}
