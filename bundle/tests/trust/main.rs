//! Trust, from the outside: a fleet on paper, its devices, and whoever stands between them.

#[cfg(test)]
mod acceptance;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod e_cases;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod floors;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod model;
#[cfg(test)]
mod noticed;
#[cfg(test)]
mod numbers;
#[cfg(test)]
mod people;
#[cfg(test)]
mod proptest_documents;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod scopes;
