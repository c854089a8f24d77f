"""From raw ptychographic projections to maps of direction: the path, and its conventions.

Read this page, then the modules in the order in which they are named::

    raw files ─ read ─ resample ─ phase ─ align (per series) ─ register ─ difference
      io.raw    preprocess.prepare        align.pairs          align.register
                (resample, phase)         align.consistency    align.assemble
                                                               align.joint

    ─ reconstruct ─ analyse ─ result.nxs + report.html + summary.json
      reconstruct.{scalar,vector,orientation}   io.results   report.html
                    analyse.{density,chemistry,grains,resolution,...}

Every stage is a plain function on arrays with typed settings (`schemas.recipe`); a notebook calls
it without Prefect, Dask or files. The modules of `flows.steps` string them together through files,
and `flows.beamtime_flow` shows the operator what they do. The stacks that pass between the stages
are named in `pipeline.stacks`.

Conventions
-----------
============  ====================================================================================
lab frame     right-handed; +z along the beam, +y up, +x = y × z
sample frame  fixed in the sample; `r_lab = R r_sample`, `R` (3, 3) float64
volume        C order `[..., z, y, x]` in the sample frame, component axis first
stack         `[projection, y, x]` in the lab frame; rows along +y, columns along +x
origin        pixel `n // 2` on every axis: rotation axis and centre of the sample
projection    `P_m(x, y) = ∫ Σ_c w_mc X_c(R_mᵀ (x, y, z)) dz`, integrated in voxels
units         SI, in the name of every scalar; degrees in schemas and files, radians inside
XL-DOT        `R = R_y(θ) R_z(tilt) R_y(pre-rotation)`; measured matrices where there are any
RESIRE-V      Euler angles (φ, θ, ψ): `R = (R_z(φ) R_y(θ) R_x(ψ))ᵀ`
phase         `−(2π/λ) ∫ δ dz`: matter is negative
tensor        components xx, yy, zz, yz, xz, xy of `T = f_lin a aᵀ`; weights of the last three
              count twice; `a ≡ −a`, so that only `a aᵀ` is ever averaged
============  ====================================================================================

========  ==========================  =====================================  ====================
contrast  field                       weights of projection m                 stack
========  ==========================  =====================================  ====================
scalar    1 component                 1                                       −phase
circular  magnetisation, 3            helicity · r_z                          ½ (P₊ − P₋)
linear    tensor, 6                   p (r_x r_xᵀ − r_y r_yᵀ), `tr T` unseen  −(phase_LH − phase_LV)
========  ==========================  =====================================  ====================

with `r_x, r_y, r_z` the rows of `R_m` and `p` the degree of linear polarisation.

Sources
-------
- XLDOT: Apseros et al., Nature 636, 354 (2024), doi 10.1038/s41586-024-08233-y, and New J. Phys.
  27, 103902 (2025), doi 10.1088/1367-2630/ae0eaa.
- RESIREV: Pham et al., Sci. Rep. 14 (2024), doi 10.1038/s41598-024-59140-1.
- ALIGN: Odstrčil et al., Opt. Express 27, 36637 (2019), doi 10.1364/OE.27.036637.
"""
