//! Elements of the kernel's maps, by the names of the maps.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use lb_common::abi::Range;

pub(super) fn map_of<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map> {
    bpf.map_mut(name)
        .with_context(|| format!("the object has no map {name}"))
}

pub(super) fn put<K: Pod, V: Pod>(bpf: &mut Ebpf, name: &str, key: &K, value: &V) -> Result<()> {
    Ok(HashMap::<_, K, V>::try_from(map_of(bpf, name)?)?.insert(key, value, 0)?)
}

pub(super) fn allow<R: Pod>(bpf: &mut Ebpf, name: &str, range: R, len: u8) -> Result<()> {
    let key = Key::new(Range::<u32>::BITS + u32::from(len), range);
    Ok(LpmTrie::<_, R, u32>::try_from(map_of(bpf, name)?)?.insert(&key, 0, 0)?)
}

pub(super) fn disallow<R: Pod>(bpf: &mut Ebpf, name: &str) -> Result<()> {
    let mut map = LpmTrie::<_, R, u32>::try_from(map_of(bpf, name)?)?;
    let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

pub(super) fn set<V: Pod>(bpf: &mut Ebpf, name: &str, index: u32, value: &V) -> Result<()> {
    Ok(Array::<_, V>::try_from(map_of(bpf, name)?)?.set(index, value, 0)?)
}

pub(super) fn clear<K: Pod, V: Pod>(bpf: &mut Ebpf, name: &str) -> Result<()> {
    let mut map = HashMap::<_, K, V>::try_from(map_of(bpf, name)?)?;
    let keys = map.keys().collect::<Result<Vec<K>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}
