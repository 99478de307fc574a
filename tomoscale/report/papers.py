"""The papers that definitions cite by a short name."""

S1 = "Lopes Marinho et al. 2024, Front. Phys. 12, 1257512, doi:10.3389/fphy.2024.1257512"
S2 = "Baltruschat et al. 2021, Sci. Rep. 11, 24237, doi:10.1038/s41598-021-03542-y"
