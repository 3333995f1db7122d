"""llama.cpp through the C interface of llama-cpp-python, without its Python loop over tokens.

LLAMA_CPP_LIB_PATH names the folder of another libllama.so than the package's own."""
import ctypes

import llama_cpp as ll
import numpy as np


class Peer:
    """A model, a context, and the one sequence in its cache."""

    def __init__(self, file: str, threads: int, context: int = 1024, batch: int = 512):
        ll.llama_backend_init()
        self._quiet = ll.llama_log_callback(lambda *_: None)  # kept, or it is collected while in use
        ll.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._model = ll.llama_model_load_from_file(file.encode(), ll.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp can't load {file}")
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, batch, batch
        params.n_threads = params.n_threads_batch = threads
        self._context = ll.llama_init_from_model(self._model, params)
        self._memory = ll.llama_get_memory(self._context)
        self._vocab = ll.llama_model_get_vocab(self._model)
        self.vocab_size = ll.llama_vocab_n_tokens(self._vocab)
        self._batch = ll.llama_batch_init(batch, 0, 1)
        self.version = f"llama-cpp-python {ll.__version__}; {ll.llama_print_system_info().decode().strip()}"

    def tokenize(self, text: str) -> list:
        data = text.encode()
        ids = (ll.llama_token * (len(data) + 8))()
        count = ll.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def crop(self, length: int) -> None:
        """Forgets what the cache holds from position `length` on."""
        ll.llama_memory_seq_rm(self._memory, 0, length, -1)

    def decode(self, ids, position: int, all_rows: bool = False) -> None:
        """One pass over `ids` from `position` on; logits of the last row, or of all."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = all_rows or i + 1 == len(ids)
        if ll.llama_decode(self._context, batch):
            raise SystemExit("llama_decode failed")
        ll.llama_synchronize(self._context)

    def logits(self, row: int = -1) -> np.ndarray:
        """[vocab], f32: of a row of the last pass; -1 is the last."""
        pointer = ll.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy()

    def best(self) -> int:
        return int(self.logits().argmax())
