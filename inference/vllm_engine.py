"""Engine `vllm`: vLLM in this process."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.heartbeat import phase
from inference.engine import Follow, Generation, Request, SamplingParams, check_requests
from inference.generations import Ending, finished_generation, stream_seed, unknown_ids
from inference.models import load_tokenizer, locate


class VLLMEngine:
    """An `Engine` over `vllm.LLM` with prefix caching: what prompts share is computed once.

    vLLM batches as it likes, so that the same call need not give the same tokens.

    Args:
        model: folder or hub id.
        dtype: auto, float32, bfloat16 or float16.
        options: further arguments of vllm.LLM (tensor_parallel_size, max_model_len, ...).
    Raises:
        ValueError: vLLM is not installed, an option would change what generations mean, or vLLM refuses.
    """

    has_logprobs = True
    repeatable = False

    def __init__(
        self, model: str, *, dtype: str, options: Mapping[str, Any], trust_remote_code: bool = False
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("engine: vllm is not installed; pip install 'slowthink[vllm]'")
        import vllm  # pyright: ignore[reportMissingImports]

        if options.get("logprobs_mode", "raw_logprobs") != "raw_logprobs":
            raise ValueError("engine_options: logprobs_mode: leave it out, it is raw_logprobs")
        self.name = model
        self.tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
        arguments = {"enable_prefix_caching": True, **options}
        try:
            self.llm = vllm.LLM(locate(model), dtype=dtype, trust_remote_code=trust_remote_code, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"engine_options: vllm.LLM refuses {dict(options)}: {error}") from error
        config = self.llm.llm_engine.model_config
        self.max_model_tokens = int(config.max_model_len)
        self.unknown_ids = unknown_ids(self.tokenizer, config.get_vocab_size())
        self.finished: dict[str, Any] = {}
        """Outputs that no call has taken yet; another call may be the one that steps."""

    def check(self, requests: Sequence[Request]) -> None:
        """See `Engine.check`."""
        check_requests(self, requests)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Engine.generate`."""
        self.check(requests)
        places: dict[str, tuple[int, SamplingParams]] = {}
        try:
            for index, request in enumerate(requests):
                places[self._add(request)] = index, request.params
            while places:
                with phase("generate"):
                    outputs = self.llm.llm_engine.step()
                self.finished.update((o.request_id, o) for o in outputs if o.finished)
                done: list[tuple[int, Generation]] = []
                for name in [name for name in places if name in self.finished]:
                    index, params = places.pop(name)
                    generation = self._generation(self.finished.pop(name), params)
                    following = follow(index, generation) if follow else None
                    if following is None:
                        done.append((index, generation))
                    else:
                        self.check([following])
                        places[self._add(following)] = index, following.params
                if done:
                    yield done
        finally:
            self.llm.llm_engine.abort_request(list(places))
            for name in places:
                self.finished.pop(name, None)

    def _add(self, request: Request) -> str:
        from vllm.inputs import tokens_input  # pyright: ignore[reportMissingImports]

        name = uuid.uuid4().hex
        prompt = tokens_input(list(request.prompt_ids))
        self.llm.llm_engine.add_request(name, prompt, self._sampling(request))
        return name

    def _sampling(self, request: Request) -> Any:
        import vllm  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        params = request.params
        return vllm.SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=stream_seed(request) if params.temperature else None,
            stop=list(params.stop),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            logprobs=0 if params.logprobs else None,
            logit_bias=dict.fromkeys(self.unknown_ids.union(params.banned_ids), -float("inf")) or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _generation(self, output: Any, params: SamplingParams) -> Generation:
        [completion] = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a completion by {completion.finish_reason!r}")
        ids = list(completion.token_ids)
        logprobs = None
        if params.logprobs:
            assert completion.logprobs is not None
            logprobs = [place[token].logprob for token, place in zip(ids, completion.logprobs, strict=True)]
        reason = completion.stop_reason
        ending = Ending(completion.finish_reason, reason if isinstance(reason, str) else None)
        return finished_generation(self.tokenizer, ids, ending, params.stop, logprobs)
