"""Let another program's language model answer: it gets the embeddings of the whole prompt.

`base` is the contract, `answers` the answers of an engine for the rest of the program; `vllm_here`
and `vllm_http` are vLLM in this process and behind an address; `export` writes the language model.
"""
