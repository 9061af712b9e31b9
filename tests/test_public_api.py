"""The public names of the package."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

import musicfm_hf

SOURCE = Path(inspect.getfile(musicfm_hf))


@pytest.mark.parametrize("name", musicfm_hf.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(musicfm_hf, name).__doc__
    assert name in dir(musicfm_hf)


def test_type_checkers_see_the_same_names():
    blocks = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If)]
    block = next(node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        (f"{'.' * node.level}{node.module}", alias.name, alias.asname) for node in block.body for alias in node.names
    }
    modules = musicfm_hf._EXPORTS
    assert imported == {(module, name, name) for module, names in modules.items() for name in names}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'embeddings'"):
        getattr(musicfm_hf, "embeddings")  # noqa: B009


def test_star_import_brings_the_public_names():
    names: dict = {}
    exec("from musicfm_hf import *", names)
    assert names.keys() >= set(musicfm_hf.__all__)


def test_importing_registers_the_auto_classes(tmp_path):
    config = musicfm_hf.MusicFMConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    assert type(AutoModel.from_config(config)) is musicfm_hf.MusicFMModel
    musicfm_hf.MusicFMModel(config).save_pretrained(tmp_path)
    code = f"import musicfm_hf, transformers; print(type(transformers.AutoModel.from_pretrained({str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "musicfm_hf.model.modeling_musicfm.MusicFMModel" in done.stdout


def test_old_names_warn():
    with pytest.warns(FutureWarning, match="load_annotators"):
        assert musicfm_hf.load_models is musicfm_hf.load_annotators
