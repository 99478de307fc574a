"""What users get wrong: one message of at most eight lines that names the thing and the way out, the exit code of its
kind, nothing half-written, every input as it was."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.world import digest_of, make_world, volume_at
from tomoscale.cli import main
from tomoscale.cli.failures import KINDS
from tomoscale.errors import InputError
from tomoscale.ledger import Ledger
from tomoscale.plan import ledger_folder
from tomoscale.volume import open_zarr

ROOT = Path(__file__).resolve().parents[1]
SIZE = "--voxel-size 5um"


@dataclass(frozen=True)
class Mistake:
    """A command line, the exit code it must give, and what the message must name."""

    name: str
    line: str
    code: int
    words: tuple[str, ...]


def mistake(name: str, line: str, code: int, *words: str) -> Mistake:
    return Mistake(name, line, code, words)


COMMAND_LINE = (
    mistake("no command", "", 2, "no command was given", "convert"),
    mistake("an unknown command", "convrt", 2, "'convrt'", "did you mean convert?"),
    mistake("a command of another program", "frobnicate", 2, "'frobnicate'", "--help"),
    mistake(
        "an unknown option", "convert {slices} {out} --voxelsize 5um", 2, "'--voxelsize'", "did you mean --voxel-size?"
    ),
    mistake("an option of another command", "convert {slices} {out} --radius 3", 2, "'--radius'", "it is one of clean"),
    mistake("a shortened option", "convert {slices} {out} --voxel 5um", 2, "'--voxel'", "--voxel-size"),
    mistake("one dash", "convert {slices} {out} -voxel-size 5um", 2, "'-voxel-size'", "did you mean --voxel-size?"),
    mistake("no target", "convert {slices}", 2, "target", "required"),
    mistake("too many arguments", "convert {slices} {out} more", 2, "'more'", "too many; it takes source, target"),
    mistake(
        "an option without its value", "convert {slices} {out} --voxel-size", 2, "--voxel-size", "a value must follow"
    ),
    mistake("a study of no kind", "study", 2, "COMMAND", "required"),
    mistake("a study of unknown kind", "study histology {empty}", 2, "'histology'", "implant", "study --help"),
    mistake("an empty path", "convert '' {out}", 2, "''", "is not a path"),
    mistake("an unknown shell", "completion tcsh", 2, "'tcsh'", "bash, zsh, fish"),
    mistake("a schema of nothing", "schema convrt", 2, "'convrt'", "did you mean convert?"),
    mistake("a schema of half a name", "schema study", 2, "'study'", "study implant"),
)

VALUES = (
    mistake("a voxel size of zero", "convert {slices} {out} --voxel-size 0um", 2, "'0um'", "positive"),
    mistake("a negative voxel size", "convert {slices} {out} --voxel-size=-5um", 2, "'-5um'", "positive"),
    mistake("a voxel size without a unit", "convert {slices} {out} --voxel-size 5", 2, "'5'", "no unit", "5um"),
    mistake("a voxel size of no unit we know", "convert {slices} {out} --voxel-size 5parsec", 2, "'5parsec'", "5um"),
    mistake("a voxel size of two lengths", "convert {slices} {out} --voxel-size 5um,5um", 2, "'5um,5um'", "three"),
    mistake("a voxel size with a decimal comma", "convert {slices} {out} --voxel-size 2,5um", 2, "'2,5um'", "three"),
    mistake("a voxel size of a word", "convert {slices} {out} --voxel-size small", 2, "'small'", "5um"),
    mistake("an infinite voxel size", "convert {slices} {out} --voxel-size 1e999um", 2, "'1e999um'", "positive"),
    mistake("a block of zero", "convert {slices} {out} --block 0,4,4", 2, "'0,4,4'", "three (z,y,x)"),
    mistake("a block of two", "convert {slices} {out} --block 64,64", 2, "'64,64'", "three (z,y,x)"),
    mistake("a block with stars", "convert {slices} {out} --block 64*64*64", 2, "'64*64*64'", "64,512,512"),
    mistake("a fraction of a block", "convert {slices} {out} --block 1.5", 2, "'1.5'", "number of voxels"),
    mistake("an amount of memory in words", "convert {slices} {out} --memory plenty", 2, "'plenty'", "8GiB"),
    mistake("memory without a unit", "convert {slices} {out} --memory 8", 2, "'8'", "no unit", "8GiB"),
    mistake("memory of nothing", "convert {slices} {out} --memory 0GiB", 2, "'0GiB'", "positive"),
    mistake("no processes", "convert {slices} {out} --workers processes --processes 0", 2, "'0'", "at least 1"),
    mistake("processes in words", "convert {slices} {out} --processes all", 2, "'all'", "whole number"),
    mistake("unknown workers", "convert {slices} {out} --workers many", 2, "'many'", "threads, processes, gpus"),
    mistake("a profile of no name", "convert {slices} {out} --workers slurm:", 2, "'slurm:'", "slurm:PROFILE"),
    mistake(
        "a profile that is not there",
        "convert {slices} {out} --workers slurm:atlantis " + SIZE,
        4,
        "'atlantis'",
        "cluster init",
    ),
    mistake("no jobs", "convert {slices} {out} --workers slurm --jobs 0", 2, "'0'", "at least 1"),
    mistake(
        "a scheduler elsewhere without encryption",
        "convert {slices} {out} --workers tcp://192.0.2.7:8786 " + SIZE,
        4,
        "not encrypted",
        "--insecure",
    ),
    mistake(
        "keys that are not there",
        "convert {slices} {out} --workers tls://192.0.2.7:8786 --credentials {empty} " + SIZE,
        4,
        "{empty}",
        "ca.pem, cert.pem, key.pem",
    ),
    mistake("a site nobody knows", "cluster init --site atlantis", 2, "'atlantis'", "maxwell"),
    mistake("a script that runs nothing", "cluster script --site generic", 2, "COMMAND", "required"),
    mistake("an unknown kind", "convert {slices} {out} --kind gray", 2, "'gray'", "did you mean grey?"),
    mistake("a way with NaN we do not know", "convert {slices} {out} --not-finite skip", 2, "'skip'", "refuse, zero"),
    mistake("percentiles in the wrong order", "normalise {scan} {out} --percentiles 99 1", 2, "99", "increasing"),
    mistake("percentiles beyond 100", "normalise {scan} {out} --percentiles 1 101", 2, "101", "0..100"),
    mistake("one percentile", "normalise {scan} {out} --percentiles 1", 2, "--percentiles", "2 values"),
    mistake("a percentile in words", "normalise {scan} {out} --percentiles low high", 2, "'low'", "a number"),
    mistake("a percentile that is not a number", "normalise {scan} {out} --percentiles nan 99", 2, "'nan'", "a number"),
    mistake("a threshold of nothing", "threshold {scan} {out}", 2, "--above", "--range", "--otsu"),
    mistake("two thresholds", "threshold {scan} {out} --above 5 --otsu", 2, "one of --above"),
    mistake("a threshold in words", "threshold {scan} {out} --above bone", 2, "'bone'", "a number"),
    mistake("a range in the wrong order", "threshold {scan} {out} --range 9 3", 2, "9", "3", "low must be less"),
    mistake("a radius of nothing", "clean {labels} {out} --radius 0", 2, "'0'", "at least 1"),
    mistake("a radius with a unit", "clean {labels} {out} --radius 5um", 2, "'5um'", "whole number"),
    mistake("an unknown scheme", "normalise {scan} {out} --scheme minmax", 2, "'minmax'", "percentiles, zscore"),
    mistake("a tolerance of everything", "segment {normal} {out} --tolerance 1", 2, "between 0 and 1"),
    mistake("the probability of no class", "segment {normal} {out} --output wood", 2, "'wood'", "bone"),
    mistake("an unknown backend", "segment {normal} {out} --backend onnx", 2, "'onnx'", "torch, openvino"),
    mistake("planes of another number", "segment {normal} {out} --planes 5", 2, "'5'", "1, 3, 9"),
    mistake("a vote of no kind", "segment {normal} {out} --planes 3 --voting loud", 2, "'loud'", "soft, majority"),
    mistake("a tile that does not fit", "segment {normal} {out} --planes 3 --tile 3", 2, "(1, 3, 3)", "multiple"),
    mistake("an unknown precision", "segment {normal} {out} --precision float16", 2, "'float16'", "did you mean"),
    mistake("a healing time without a unit", "measure {labels} {out} --healing-time 6", 2, "'6'", "no unit", "6weeks"),
    mistake("a healing time of nothing", "measure {labels} {out} --healing-time 0d", 2, "'0d'", "positive"),
    mistake("a healing time in moons", "measure {labels} {out} --healing-time 2moons", 2, "'2moons'", "6weeks"),
    mistake("a healing time in months", "measure {labels} {out} --healing-time 3months", 2, "'3months'", "12weeks"),
    mistake("a distance without a unit", "measure {labels} {out} --roi-distance 1000", 2, "'1000'", "no unit"),
    mistake("a depth without a unit", "split {labels} {out} --min-depth 10", 2, "'10'", "no unit"),
    mistake("ranges of one number", "semi-automatic {scan} {out} --metal 90", 2, "'90'", "90:120"),
    mistake("ranges without limits", "semi-automatic {scan} {out} --metal :", 2, "':'", "90:120"),
    mistake("ranges of two materials", "semi-automatic {scan} {out} --metal 1:2 --layer 3:4", 2, "--rest missing"),
    mistake(
        "ranges that overlap",
        "semi-automatic {scan} {out} --metal 1:20 --layer 10:30 --rest 40:50",
        2,
        "1.0 to 20.0 and 10.0 to 30.0 overlap",
    ),
    mistake(
        "ranges and painted markers",
        "semi-automatic {scan} {out} --metal 1:20 --markers {labels}",
        2,
        "one or the other",
    ),
    mistake("one class", "thresholds {scan} {out} --number 1", 2, "n_classes", "at least 2"),
    mistake("a region of two axes", "export {labels} {out}.tif --region 0:4,0:4", 2, "'0:4,0:4'", "three ranges"),
    mistake(
        "a region of nothing", "export {labels} {out}.tif --region 4:4,:,:", 2, "'4:4,:,:'", "end after they start"
    ),
    mistake("a region beyond the volume", "export {labels} {out}.tif --region 0:99,:,:", 2, "99", "0:20"),
    mistake("an unknown format", "export {labels} {out} --format jpeg", 2, "'jpeg'", "tiff"),
    mistake("a name that tells no format", "export {labels} {out}.xyz", 2, "'.xyz'", ".tif"),
    mistake("a port beyond all ports", "view {scan} --port 70000", 2, "'70000'", "65535"),
    mistake("an unknown viewer", "view {scan} --viewer paraview", 2, "'paraview'", "neuroglancer, napari"),
    mistake("a phantom of no size", "demo {out} --size 0", 2, "'0'", "number of voxels"),
    mistake("a negative seed", "demo {out} --size 48 --seed=-1", 2, "'-1'", "at least 0"),
    mistake(
        "raw voxels without their type", "convert {voxels_raw} {out} --shape 20,24,28 " + SIZE, 2, "--dtype is missing"
    ),
    mistake(
        "raw voxels without their shape", "convert {voxels_raw} {out} --dtype uint16 " + SIZE, 2, "--shape is missing"
    ),
    mistake(
        "raw voxels of unknown type", "convert {voxels_raw} {out} --shape 20,24,28 --dtype u16", 2, "'u16'", "uint16"
    ),
    mistake("an offset before the file", "convert {voxels_raw} {out} --offset=-5", 2, "'-5'", "at least 0"),
)

FILES = (
    mistake("a missing source", "convert {nowhere} {out} " + SIZE, 3, "{nowhere}", "does not exist"),
    mistake("a pipe", "convert {pipe} {out} " + SIZE, 3, "{pipe}", "pipe or a device"),
    mistake("a link in a circle", "convert {circle} {out} " + SIZE, 3, "{circle}"),
    mistake("a TIFF of exabytes", "convert {giant_tif} {out} " + SIZE, 3, "{giant_tif}"),
    mistake("a MetaImage of exabytes", "convert {giant_mhd} {out}", 3, "{giant_mhd}"),
    mistake("an NRRD of exabytes", "convert {giant_nrrd} {out} " + SIZE, 3, "{giant_nrrd}"),
    mistake("a link to nothing", "convert {dangling} {out} " + SIZE, 3, "{dangling}", "does not exist"),
    mistake("an empty folder", "convert {empty} {out} " + SIZE, 3, "{empty}", "TIFF"),
    mistake("a text file", "convert {text_txt} {out} " + SIZE, 3, "{text_txt}", "not a format we read"),
    mistake("a picture", "convert {picture_png} {out} " + SIZE, 3, "{picture_png}", "not a format we read"),
    mistake("no voxel size", "convert {slices} {out}", 3, "{slices}", "such as --voxel-size 5um"),
    mistake("another voxel size", "convert {scan} {out} --voxel-size 7um", 3, "{scan}", "7", "5"),
    mistake("a slice cut short", "convert {slices_cut} {out} " + SIZE, 3, "recon_00007"),
    mistake(
        "a slice of other shape", "convert {slices_odd_shape} {out} " + SIZE, 3, "recon_00007", "(9, 9)", "one shape"
    ),
    mistake(
        "a slice of other type", "convert {slices_odd_type} {out} " + SIZE, 3, "recon_00007", "float32", "one type"
    ),
    mistake("a missing slice", "convert {slices_gap} {out} " + SIZE, 3, "slice 7 is missing"),
    mistake("a slice of zero bytes", "convert {slices_zero_bytes} {out} " + SIZE, 3, "recon_00007"),
    mistake("a slice that leads nowhere", "convert {slices_unreadable} {out} " + SIZE, 3, "recon_00007"),
    mistake("a slice that is there twice", "convert {slices_twice} {out} " + SIZE, 3, "00007", "same slice number 7"),
    mistake("a file without a number", "convert {slices_nameless} {out} " + SIZE, 3, "overview.tif", "no number"),
    mistake("slices in colour", "convert {slices_colour} {out} " + SIZE, 3, "grey"),
    mistake("a slice of many pages", "convert {slices_pages} {out} " + SIZE, 3, "recon_00007", "3 pages"),
    mistake("a TIFF that ends early", "convert {cut_tif} {out} " + SIZE, 3, "{cut_tif}"),
    mistake("a TIFF of zero bytes", "convert {nothing_tif} {out} " + SIZE, 3, "{nothing_tif}"),
    mistake("a NIfTI that ends early", "convert {cut_nii} {out} " + SIZE, 3, "{cut_nii}"),
    mistake("a NaN", "convert {nan} {out} " + SIZE, 3, "(3, 4, 5)", "nan.h5", "--not-finite zero"),
    mistake("an infinite value", "convert {infinite} {out} " + SIZE, 3, "(3, 4, 5)", "infinite.h5"),
    mistake("no such dataset", "convert {nan}::/entry/x {out} " + SIZE, 3, "has no 'entry'", "data"),
    mistake(
        "two names of a dataset", "convert {nan}::/data {out} --dataset /other " + SIZE, 2, "/other", "contradicts"
    ),
    mistake(
        "a dataset of a folder of slices", "convert {slices} {out} --dataset /data " + SIZE, 2, "/data", "leave it out"
    ),
    mistake("two datasets", "convert {two} {out} " + SIZE, 3, "entry/one", "entry/two", "--dataset"),
    mistake("a group instead of a dataset", "convert {two}::/entry {out} " + SIZE, 3, "/entry", "group"),
    mistake("an image in HDF5", "convert {flat_image} {out} " + SIZE, 3, "flat_image.h5", "three-dimensional"),
    mistake("complex values", "convert {complex} {out} " + SIZE, 3, "complex.h5", "numeric"),
    mistake("an HDF5 file of nothing", "convert {nothing} {out} " + SIZE, 3, "{nothing}"),
    mistake("an HDF5 file cut short", "convert {cut_h5} {out} " + SIZE, 3, "{cut_h5}"),
    mistake("raw voxels without a word", "convert {voxels_raw} {out} " + SIZE, 3, "{voxels_raw}", "shape"),
    mistake(
        "raw voxels of another shape", "convert {voxels_raw} {out} --shape 20,24,29 --dtype uint16 " + SIZE, 3, "27840"
    ),
    mistake(
        "raw voxels after the end",
        "convert {voxels_raw} {out} --shape 20,24,28 --dtype uint16 --offset 9 " + SIZE,
        3,
        "26880",
    ),
    mistake("an unfinished volume", "normalise {unfinished} {out}", 3, "{unfinished}", "not finished", "same command"),
    mistake("a volume of a newer program", "normalise {newer} {out}", 3, "{newer}", "newer tomoscale"),
    mistake("a volume with a damaged shard", "clean {damaged} {out}", 7, "damaged.zarr"),
    mistake("a volume that lacks a shard", "convert {gone} {out}", 7, "gone.zarr"),
    mistake("broken metadata", "normalise {broken_json} {out}", 3, "broken_json.zarr/zarr.json", "metadata"),
    mistake("a shape below zero", "normalise {negative} {out}", 3, "negative.zarr"),
    mistake("voxels that are objects", "normalise {objects} {out}", 3, "objects.zarr", "'object'"),
    mistake("an unknown codec", "normalise {mystery} {out}", 3, "mystery.zarr", "'mystery'"),
    mistake("chunks of an exabyte", "normalise {huge_chunk} {out}", 3, "huge_chunk.zarr", "GiB"),
    mistake("shards that chunks do not divide", "normalise {uneven} {out}", 3, "uneven.zarr", "1001"),
    mistake("an array that is not there", "export {scan} {out}.tif --level 7", 3, "{scan}", "'7'"),
    mistake("info of nothing", "info {nowhere}", 3, "{nowhere}", "does not exist"),
    mistake("info of a text", "info {text_txt}", 3, "{text_txt}", "not a format we read"),
    mistake("coarser levels of slices", "pyramid {slices}", 3, "{slices}", "tomoscale convert"),
    mistake("coarser levels of half a volume", "pyramid {unfinished}", 3, "{unfinished}", "not finished"),
    mistake("status of nothing", "status {empty}", 3, "{empty}", "no record of a run"),
    mistake("status of what is not there", "status {nowhere}", 3, "{nowhere}"),
    mistake("verify of a foreign folder", "verify {slices}", 3, "{slices}", "no record of a run"),
    mistake("a report of nothing", "report {results} {out}.html", 3, "{results}", "holds no results"),
    mistake(
        "a report of broken results",
        "report {results_broken} {out}.html",
        3,
        "{results_broken}",
        "results cannot be read",
        "measure again",
    ),
)

SCIENCE = (
    mistake("labels out of range", "measure {high} {out}", 3, "high.zarr", "9"),
    mistake("shapes that disagree", "measure {labels} {out} --truth {other}", 3, "{other}", "20 x 22 x 28", "one grid"),
    mistake("voxel sizes that disagree", "measure {labels} {out} --truth {coarse}", 3, "{coarse}", "10", "one grid"),
    mistake("labels of unknown voxel size", "measure {sizeless} {out}", 3, "{sizeless}", "voxel"),
    mistake("grey values as labels", "measure {scan} {out}", 3, "scan.zarr"),
    mistake("a truth that is not there", "measure {labels} {out} --truth {nowhere}", 3, "{nowhere}"),
    mistake("a grid of another shape", "measure {labels} {out} --grey {other}", 3, "{other}", "one grid"),
    mistake("an empty reference", "measure {labels} {out} --reference {bare} --healing-time 6weeks", 3, "reference"),
    mistake("no contrast", "normalise {flat} {out}", 3, "{flat}", "no contrast"),
    mistake("a threshold of one value", "threshold {flat} {out} --otsu", 3, "{flat}", "different grey values"),
    mistake("Otsu of 32 bits", "threshold {normal} {out} --otsu", 3, "{normal}", "float32", "16 bits"),
    mistake("a threshold of a NaN", "threshold {nan} {out} --above 0", 3, "(3, 4, 5)", "nan.h5"),
    mistake("markers of another shape", "watershed {scan} {other} {out}", 3, "{other}", "one grid"),
    mistake(
        "grey values as markers", "watershed {scan} {normal} {out}", 3, "{normal}", "float32", "tomoscale components"
    ),
    mistake("markers of nothing", "watershed {scan} {labels} {out} --mask {bare}", 3, "mask holds no voxel"),
    mistake("a split of nothing", "split {bare} {out}", 3, "{bare}", "no voxel of the object"),
    mistake("a split of grey values", "split {normal} {out}", 3, "{normal}", "labels or a mask"),
    mistake("a size of unknown voxels", "resample {sizeless} {out} --voxel-size 5um", 3, "{sizeless}", "--voxel-size"),
    mistake("labels between labels", "resample {labels} {out} --voxel-size 5um --method linear", 3, "nearest"),
    mistake("a gradient of unknown voxel size", "gradient {sizeless} {out}", 3, "{sizeless}", "voxel"),
    mistake(
        "too many classes", "thresholds {flat} {out} --number 3", 3, "{flat}", "fewer than 3 different grey values"
    ),
    mistake("segmenting labels", "segment {labels} {out}", 3, "{labels}", "a network labels grey values"),
    mistake("cleaning values that are not labels", "clean {normal} {out}", 3, "normal.zarr"),
    mistake("no such model", "segment {normal} {out} --model {nowhere}", 3, "{nowhere}"),
    mistake("a folder without a model", "segment {normal} {out} --model {empty}", 3, "{empty}", "card.json"),
    mistake("a model cut short", "segment {normal} {out} --model {model_cut}", 3, "weights.safetensors"),
    mistake("a model without weights", "segment {normal} {out} --model {model_weightless}", 3, "weights.safetensors"),
    mistake("a model without a card", "segment {normal} {out} --model {model_cardless}", 3, "card.json"),
    mistake("weights of another model", "segment {normal} {out} --model {model_swapped}", 3, "SHA-256"),
    mistake("pickled weights", "segment {normal} {out} --model {model_pickle}", 3, "weights.safetensors"),
    mistake("a card of almost nothing", "segment {normal} {out} --model {model_card}", 3, "card.json", "lacks"),
    mistake("no model to look at", "model info {nowhere}", 3, "{nowhere}", "card.json"),
    mistake("a card that says another reach", "model probe {model_reach}", 7, "is not what its card says", "51"),
    mistake("a folder that is no result of nnU-Net", "model import {empty} {out}", 3, "{empty}", "plans.json"),
    mistake(
        "weights of no known network", "model import {model_cut}/card.json {out}", 2, "--architecture", "--classes"
    ),
    mistake(
        "weights cut short",
        "model import {model_cut}/weights.safetensors {out} --architecture msd --classes a,b --voxel-size 5um",
        3,
        "{model_cut}/weights.safetensors",
        "is not a safetensors file",
    ),
    mistake(
        "weights of another network",
        "model import {model_card}/weights.safetensors {out} --architecture msd --classes a,b --voxel-size 5um",
        3,
        "{model_card}/weights.safetensors",
        "lacks 200 tensors",
    ),
    mistake(
        "an option of nnU-Net for weights",
        "model import {model_card}/weights.safetensors {out} --folds 0",
        2,
        "--folds cannot be given",
    ),
    mistake(
        "arguments that are no JSON", "model import {scan} {out} --arguments width=3", 2, "'width=3'", '{{"depth": 5'
    ),
    mistake("one class twice", "model import {scan} {out} --classes a,a", 2, "names that are all different"),
    mistake("a window of one number", "model import {scan} {out} --window 3", 2, "two or three numbers of voxels"),
    mistake(
        "a module that is not there",
        "model info {empty} --architecture-module my_lab.nets",
        2,
        "my_lab.nets",
        "PYTHONPATH",
    ),
)

PLACES = (
    mistake("an output that exists", "convert {slices} {scan} " + SIZE, 4, "{scan}", "--overwrite"),
    mistake(
        "overwriting slices", "convert {slices} {slices_gap} --overwrite " + SIZE, 4, "{slices_gap}", "not made by"
    ),
    mistake("overwriting a file", "convert {slices} {text_txt} --overwrite " + SIZE, 4, "{text_txt}"),
    mistake("a file in the way", "convert {slices} {text_txt} " + SIZE, 4, "{text_txt}"),
    mistake("a folder below a file", "convert {slices} {text_txt}/out.zarr " + SIZE, 4, "text.txt"),
    mistake("an output that is its input", "clean {labels} {labels}", 4, "{labels}", "another output"),
    mistake(
        "an output that is its input, overwritten", "clean {labels} {labels} --overwrite", 4, "{labels}", "another"
    ),
    mistake("an output that holds its input", "clean {labels} {world} --overwrite", 4, "{world}", "another output"),
    mistake("no place to write", "convert {slices} /proc/out.zarr " + SIZE, 4, "/proc"),
    mistake("a report in the way", "report {results} {page_html}", 3, "{results}"),
    mistake("a study in a place for nothing", "measure {labels} /proc/results", 4, "/proc"),
    mistake("an export in the way", "export {labels} {giant_tif}", 4, "{giant_tif}"),
    mistake("too little memory", "convert {slices} {out} --memory 1MiB " + SIZE, 4, "1.0 MiB", "MiB"),
    mistake("a scan beyond all disks", "normalise {huge} {out}", 3, "huge.zarr"),
    mistake(
        "no scheduler",
        "convert {slices} {out} --workers tcp://127.0.0.1:9 " + SIZE,
        4,
        "tcp://127.0.0.1:9",
        "scheduler",
    ),
    mistake("an address of nothing", "convert {slices} {out} --workers foo:bar " + SIZE, 4, "foo:bar"),
    mistake("no GPU", "convert {slices} {out} --workers gpus " + SIZE, 4, "no GPU"),
    mistake("verify of a damaged volume", "verify {damaged}", 3, "{damaged}"),
)

CONFIGURATIONS = (
    mistake("a training of nothing", "train", 3, "no configuration was given", "--print"),
    mistake("a training that is not there", "train {nowhere}", 3, "{nowhere}", "No such file"),
    mistake("a chain as a training", "train {yaml_late}", 2, "late.yaml:1", "steps"),
    mistake("a suggestion by no model", "suggest {empty} {scan} {out}", 3, "{empty}", "not a model bundle"),
    mistake("a suggestion over a volume", "suggest {model_good} {scan} {labels}", 4, "{labels}", "another target"),
    mistake("more unsure than that", "suggest {model_good} {scan} {out} --score doubt", 2, "'doubt'", "entropy"),
    mistake("corrections of nothing", "accept {empty} {out}", 3, "{empty}", "tomoscale suggest"),
    mistake("a grid that is not there", "study scaling {nowhere}", 3, "{nowhere}", "No such file"),
    mistake("networks that are not there", "study networks {nowhere}", 3, "{nowhere}", "No such file"),
    mistake("folds of nothing", "cross-validate", 2, "config", "required"),
    mistake("folds of what is not there", "cross-validate {nowhere}", 3, "{nowhere}", "No such file"),
    mistake("a chain as folds", "cross-validate {yaml_late}", 2, "late.yaml:1", "steps"),
    mistake("an unknown preset", "train --preset nnunet2 --print", 2, "'nnunet2'", "did you mean"),
    mistake("a chain that is not there", "run {nowhere}", 3, "{nowhere}", "No such file"),
    mistake("a pipe as a chain", "run {pipe}", 3, "{pipe}", "pipe or a device"),
    mistake("a folder as a chain", "run {empty}", 3, "{empty}"),
    mistake("a scan as a chain", "run {voxels_raw}", 2, "{voxels_raw}"),
    mistake("a study as a chain", "run {yaml_study_bare}", 2, "study_bare.yaml:1", "study"),
    mistake("a chain as a study", "study implant {yaml_late}", 2, "late.yaml:1", "steps"),
    mistake("an unknown key", "run {yaml_unknown_key}", 2, "unknown_key.yaml:1", "did you mean steps?"),
    mistake("an unknown command in a chain", "run {yaml_unknown_command}", 2, ":2:", "convrt", "did you mean convert?"),
    mistake("an unknown option in a chain", "run {yaml_unknown_option}", 2, ":2:", "did you mean voxel-size?"),
    mistake("a length without a unit in a chain", "run {yaml_unit}", 2, ":2:", "voxel-size", "'5'", "no unit"),
    mistake("a flag that is none", "run {yaml_flag}", 2, ":2:", "exclude-zeros", "'maybe'", "true or false"),
    mistake("one value for two", "run {yaml_pair}", 2, ":2:", "percentiles", "list"),
    mistake("a step without a target", "run {yaml_lacking}", 2, ":2:", "convert", "target"),
    mistake("a key given twice", "run {yaml_twice}", 2, ":2:", "source", "line 2"),
    mistake("a step's input that is not there", "run {yaml_not_there}", 3, ":2:", "labelz.zarr", "no earlier step"),
    mistake("steps in the wrong order", "run {yaml_order}", 3, ":2:", "l.zarr", "later step", "put that one first"),
    mistake("two steps with one output", "run {yaml_clash}", 4, ":3:", "o.zarr", "earlier step"),
    mistake("a chain that eats its input", "run {yaml_eats_input}", 4, ":3:", "labels.zarr", "another output"),
    mistake("a chain of nothing", "run {yaml_empty_list}", 2, "steps", "must be a list"),
    mistake("two commands in one step", "run {yaml_two_in_one}", 2, ":2:", "own dash"),
    mistake("half a YAML file", "run {yaml_no_yaml}", 2, "no_yaml.yaml", "YAML"),
    mistake("a tab", "run {yaml_tab}", 2, "tab.yaml:2", "YAML"),
    mistake("an object in YAML", "run {yaml_object}", 2, "object.yaml:1", "tag"),
    mistake("a YAML file that would grow", "run {yaml_bomb}", 2, "bomb.yaml", "aliases"),
    mistake("a YAML file too large", "run {yaml_large}", 2, "large.yaml", "256 KiB"),
    mistake("a binary file as YAML", "run {yaml_binary}", 2, "binary.yaml:1"),
    mistake("a mistake in the last step", "run {yaml_late}", 3, "late.yaml:3", "measure", "one grid"),
    mistake("a viewer in a chain", "run {yaml_raw_step}", 2, ":2:", "view", "valid here"),
    mistake("unknown workers in a chain", "run {yaml_workers}", 2, ":1:", "workers", "'many'"),
    mistake("an unknown kind of study", "study implant {yaml_study_unknown}", 2, ":1:", "'implants'", "implant"),
    mistake("a study without a folder", "study implant {yaml_study_lacks}", 2, "folder"),
    mistake("a study of nothing", "study implant {yaml_study_empty}", 2, "samples", "list"),
    mistake("a sample without a name", "study implant {yaml_study_nameless}", 2, ":3:", "no name"),
    mistake("samples of one name", "study implant {yaml_study_twins}", 2, ":3:", "called a"),
    mistake("a sample of nothing", "study implant {yaml_study_bare}", 2, ":3:", "neither scan nor labels"),
    mistake("a sample's time without a unit", "study implant {yaml_study_time}", 2, ":4:", "healing-time", "'6'"),
    mistake("a sample that is not there", "study implant {yaml_study_gone}", 3, ":4:", "skan.zarr", "does not exist"),
    mistake("a sample's key with a typo", "study implant {yaml_study_typo}", 2, ":4:", "did you mean healing-time?"),
    mistake("a mean of unknown classes", "study implant {yaml_study_preset}", 2, ":3:", "'all'", "s1_all4"),
    mistake("a study of no sample", "study implant --folder {out}", 2, "no sample", "--sample"),
    mistake("a study without a place", "study implant --name a --scan {scan}", 2, "--folder is missing"),
    mistake("a sample of a typo", "study implant --folder {out} --sample name=a,skan=x", 2, "did you mean scan?"),
    mistake("a sample twice over", "study implant --folder {out} --sample name=a --name b", 2, "not both"),
    mistake(
        "a sample of both",
        "study implant --name a --scan {scan} --labels {labels} --folder {out}",
        2,
        "both scan and labels",
    ),
    mistake(
        "a sample that is a path", "study implant --name ../a --labels {labels} --folder {out}", 2, "'../a'", "letters"
    ),
    mistake(
        "an unknown test",
        "study implant --name a --labels {labels} --folder {out} --statistics t-test",
        2,
        "t-test",
        "wilcoxon",
    ),
    mistake("a file and a sample", "study implant {yaml_study_bare} --name b", 2, "name", "write it there"),
)

MISTAKES = (*COMMAND_LINE, *VALUES, *FILES, *SCIENCE, *PLACES, *CONFIGURATIONS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("world")
    return {**make_world(folder), "world": str(folder)}


@pytest.fixture
def out(tmp_path, world):
    """Where a mistake would write; afterwards nothing there may pass for finished, and every input is as it was."""
    before = digest_of(Path(world["world"]))
    yield tmp_path / "out.zarr"
    assert digest_of(Path(world["world"])) == before, "an input was changed"
    for path in tmp_path.iterdir():
        assert path.is_dir(), f"{path} was left behind"
        assert not (path / "results.json").exists(), f"{path} holds results"
        if (path / "zarr.json").exists():
            with pytest.raises(InputError, match="not finished"):
                open_zarr(path)


def said(line: str, names: dict[str, str], capsys) -> tuple[int, str]:
    """Exit code and message of a command line in this process; nothing may stand on stdout."""
    capsys.readouterr()
    started = time.process_time()
    code = main([part.format(**names) for part in shlex.split(line)])
    assert time.process_time() - started < 10
    printed = capsys.readouterr()
    assert printed.out == ""
    # On a slow machine progress may stand before the message.
    return code, re.sub(r"(?m)^.*: \d+/\d+ blocks, .*\n", "", printed.err)


def check(found: Mistake, code: int, message: str, names: dict[str, str]) -> None:
    assert code == found.code, message
    for word in found.words:
        assert word.format(**names) in message, message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 8, message
    assert message.startswith("tomoscale: ")


@pytest.mark.parametrize("found", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_gets_one_message_and_its_exit_code(found, world, out, capsys):
    names = {**world, "out": str(out)}
    code, message = said(found.line, names, capsys)
    check(found, code, message, names)


def test_there_are_enough_and_each_has_its_own_name():
    assert len(MISTAKES) >= 120
    assert len({m.name for m in MISTAKES}) == len(MISTAKES)
    assert {m.code for m in MISTAKES} >= {2, 3, 4, 7}


@pytest.mark.parametrize(
    "found", [*COMMAND_LINE[1:4], *VALUES[:2], *FILES[:2], *PLACES[:2], *CONFIGURATIONS[:3]], ids=lambda m: m.name
)
def test_with_json_the_error_stands_on_stdout_too(found, world, out, capsys):
    names = {**world, "out": str(out)}
    capsys.readouterr()
    assert main([*(part.format(**names) for part in shlex.split(found.line)), "--json"]) == found.code
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert (error["code"], error["kind"]) == (found.code, KINDS[found.code].name)
    assert error["message"] in printed.err
    assert error["hint"]


HOSTILE = (
    *(m for m in MISTAKES if "exabyte" in m.name or "grow" in m.name or "large" in m.name or "beyond" in m.name),
    *(m for m in MISTAKES if m.name.startswith(("raw voxels", "a TIFF", "a NIfTI", "an HDF5", "pickled"))),
)
IN_ONE_PROCESS = """
import json, pathlib, sys, time
from tomoscale.cli import main
def peak_bytes():  # unlike ru_maxrss without that of the process this one was forked from
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
for arguments in json.load(sys.stdin):
    started = time.process_time()
    code = main(arguments)
    print(json.dumps([code, time.process_time() - started, peak_bytes()]))
"""


def start(folder: Path, *arguments: str, **how) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tomoscale", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and message of a process, which must be one without a traceback."""
    printed, message = process.communicate(timeout=60)
    assert printed == ""
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 8, message
    return process.returncode, message


def test_hostile_files_take_neither_time_nor_memory(world, out):
    assert len(HOSTILE) >= 12
    names = {**world, "out": str(out)}
    lines = [[part.format(**names) for part in shlex.split(m.line)] for m in HOSTILE]
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS],
        input=json.dumps(lines),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Warning" not in done.stderr
    for found, line in zip(HOSTILE, done.stdout.splitlines(), strict=True):
        code, seconds, peak_bytes = json.loads(line)
        assert (code, seconds < 10, peak_bytes < 2**30) == (found.code, True, True), (found.name, line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_goes_on_where_it_was(tmp_path, number):
    values = np.random.default_rng(0).integers(0, 4, (40, 300, 300)).astype(np.uint8)
    volume_at(tmp_path / "in.zarr", values)
    command = ("clean", "in.zarr", "out.zarr", "--radius", "3", "--no-pyramid")
    process = start(tmp_path, *command, "--block", "2,100,100", "--quiet")
    record = ledger_folder(tmp_path / "out.zarr") / "blocks.log"
    deadline = time.monotonic() + 60
    while (
        not (record.exists() and record.stat().st_size > 60) and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(number)
    code, message = ended(process)
    assert code == 6, message
    assert "the same command goes on from there" in message
    done = Ledger.load(record.parent).done
    assert 0 < done.sum() < done.size
    with pytest.raises(InputError, match="not finished"):
        open_zarr(tmp_path / "out.zarr")
    source, target = str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr")
    assert main(["clean", source, target, *command[3:], "--quiet"]) == 0
    assert open_zarr(tmp_path / "out.zarr").finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_while_it_starts_says_so(tmp_path, number):
    program = "import os, signal, sys; import tomoscale.cli as c; c._run = lambda a: os.kill(os.getpid(), {}); sys.exit(c.main([]))"
    done = subprocess.run(
        [sys.executable, "-c", program.format(int(number))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6
    assert done.stderr.startswith("tomoscale: interrupted")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def noise(tmp_path) -> Path:
    """Half a MiB that no compressor makes smaller."""
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 64)).astype(np.uint16)
    return volume_at(tmp_path / "noise.zarr", values, kind="grey")


def test_a_disk_that_is_too_small_is_refused_by_the_plan(small_disk, noise, capsys):
    (small_disk / "filler").write_bytes(bytes(700_000))
    code, message = said("convert {noise} {disk}/out.zarr", {"noise": str(noise), "disk": str(small_disk)}, capsys)
    assert code == 4
    assert "out.zarr may take 512.0 KiB" in message
    assert "free some space" in message
    assert not (small_disk / "out.zarr").exists()


def test_a_disk_that_fills_up_ends_the_run_which_then_goes_on(small_disk, noise, capsys):
    (small_disk / "filler").write_bytes(bytes(2**20 - 530_000))
    names = {"noise": str(noise), "disk": str(small_disk)}
    line = "convert {noise} {disk}/out.zarr --no-pyramid --quiet"
    code, message = said(line, names, capsys)
    assert code == 4, message
    assert "No space left on device" in message
    with pytest.raises(InputError, match="not finished"):
        open_zarr(small_disk / "out.zarr")
    (small_disk / "filler").unlink()
    assert main([part.format(**names) for part in shlex.split(line)]) == 0
    np.testing.assert_array_equal(open_zarr(small_disk / "out.zarr").read(), open_zarr(noise).read())


def test_a_read_only_disk_is_refused(small_disk, noise, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, message = said("convert {noise} {disk}/out.zarr", {"noise": str(noise), "disk": str(small_disk)}, capsys)
    assert code == 4
    assert "out.zarr cannot be written" in message


def test_files_that_may_not_grow_end_the_run_with_nothing_finished(tmp_path, noise):
    limit = 100_000
    process = start(
        tmp_path,
        *("convert", "noise.zarr", "out.zarr", "--no-pyramid", "--quiet"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    code, message = ended(process)
    assert code in (4, 5), message
    assert "File too large" in message
    with pytest.raises(InputError, match="not finished"):
        open_zarr(tmp_path / "out.zarr")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    process = start(tmp_path, "--json-usage")
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    process.stdout = None
    _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (0, "")


def test_a_fault_of_ours_shows_where_it_is_and_keeps_the_form(monkeypatch, capsys):
    monkeypatch.setattr("tomoscale.cli._run", lambda arguments: {}["missing"])
    assert main(["convert", "a", "b", "--json"]) == 1
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert json.loads(printed.out)["error"]["kind"] == "fault"
