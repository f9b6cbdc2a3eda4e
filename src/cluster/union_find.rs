//! Disjoint sets: union by size, path halving (Tarjan and van Leeuwen 1984). Each set knows its first member.

/// A partition of `0..len`.
#[derive(Debug, Clone)]
pub struct UnionFind {
    parent: Vec<u32>,
    size: Vec<u32>,
    first: Vec<u32>,
}

impl UnionFind {
    /// `len` sets of one member each; `len` must fit 32 bits.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let each: Vec<u32> = (0..len as u32).collect();
        Self { parent: each.clone(), size: vec![1; len], first: each }
    }

    /// How many members there are in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parent.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parent.is_empty()
    }

    /// The set of `member`, named by its root, without shortening paths: at most log2(len) steps.
    #[must_use]
    pub fn root(&self, mut member: u32) -> u32 {
        while self.parent[member as usize] != member {
            member = self.parent[member as usize];
        }
        member
    }

    /// The set of `member`, named by its root, halving the path to it.
    pub fn find(&mut self, mut member: u32) -> u32 {
        while self.parent[member as usize] != member {
            let above = self.parent[self.parent[member as usize] as usize];
            self.parent[member as usize] = above;
            member = above;
        }
        member
    }

    /// Joins two sets; `false` if they were one.
    pub fn union(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return false;
        }
        let (small, large) = if self.size[a as usize] < self.size[b as usize] { (a, b) } else { (b, a) };
        self.parent[small as usize] = large;
        self.size[large as usize] += self.size[small as usize];
        self.first[large as usize] = self.first[large as usize].min(self.first[small as usize]);
        true
    }

    /// The smallest member of the set of `member`.
    #[must_use]
    pub fn first(&self, member: u32) -> u32 {
        self.first[self.root(member) as usize]
    }

    /// How many members the set of `member` has.
    #[must_use]
    pub fn size(&self, member: u32) -> u32 {
        self.size[self.root(member) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_relabelling(pairs in prop::collection::vec((0_u32..20, 0_u32..20), 0..40)) {
            let mut sets = UnionFind::new(20);
            let mut labels: Vec<u32> = (0..20).collect();
            for (a, b) in pairs {
                let (from, to) = (labels[a as usize], labels[b as usize]);
                prop_assert_eq!(sets.union(a, b), from != to);
                // Labels are smallest members: the smaller label wins.
                labels.iter_mut().filter(|label| **label == from.max(to)).for_each(|label| *label = from.min(to));
            }
            for member in 0..20 {
                let label = labels[member as usize];
                prop_assert_eq!(sets.first(member), label);
                prop_assert_eq!(sets.size(member) as usize, labels.iter().filter(|other| **other == label).count());
                let root = sets.root(member);
                prop_assert_eq!(sets.find(member), root);
            }
        }
    }
}
