"""Methods between layers once more, in float64 NumPy over lists of tokens.

Written from the papers' descriptions: one prompt at a time, no padding, no static
lengths. A method is a function that is called before every layer with both lists and
may change the image's; whoever decodes after a prompt has the choices of the prompt.
"""

import math

import numpy as np

from tests.models import numpy_reference as reference


def logits(params, config, batch, row, method, *, prompt):
    """Returns the logits of all text tokens of a row of a dense network.

    prompt: text tokens that methods know of; the others are written after them.
    """
    params = reference._float64(params["params"])
    text = reference._text_tokens(params, batch, row)
    image = reference._image_tokens(params, config, batch, row)
    decoder = params["language_model"]
    for index in range(config.plan.num_layers):
        layer = decoder[f"layers_{index}"]

        def look(asking, seen=None, by_head=False, layer=layer):
            # What the prompt sees: later tokens are behind it.
            seen = image if seen is None else seen
            found = attention(layer, config.decoder, asking, seen, image + text)
            return found if by_head else found.mean(axis=0)

        method(index, text, image, text[:prompt], look)
        both = image + text
        reference._qwen2_layer(layer, config.decoder, both, both)
    return reference._logits(params, config, text)


def attention(layer, config, asking, looked_at, tokens):
    """Returns (heads, asking, looked_at) weights of softmaxes over all tokens."""
    rows = []
    for token in asking:
        keys = [(k, _heads(layer, "k", k, config)) for k in tokens]
        seen = [(k, (key, key)) for k, key in keys if reference._sees(token, k)]
        query = _heads(layer, "q", token, config)
        weights = np.array(reference._weights(query, [kv for _, kv in seen]))
        found = {id(k): weights[:, i] for i, (k, _) in enumerate(seen)}
        nothing = np.zeros(len(weights))
        rows.append([found.get(id(k), nothing) for k in looked_at])
    return np.moveaxis(np.array(rows), 2, 0)


def _heads(layer, name, token, config):
    scale = layer["input_layernorm"]["scale"]
    normed = reference._rms_norm(scale, token.hidden, config.norm_eps)
    heads = reference._linear(layer["self_attn"][f"{name}_proj"], normed)
    heads = heads.reshape(-1, config.head_dim)
    return reference._rope(heads, token.position, config.rope_theta)


def best(scores, count):
    """Returns the indices of the highest scores, ascending; the lower of equals."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(ranked[:count])


def renumber(text, image):
    """Counts positions anew."""
    for number, token in enumerate(sorted(image + text, key=lambda t: t.position)):
        token.position = number


def keeping_all(index, text, image, prompt, look):
    """Drops nothing."""


def fastv(layer, keep):
    """FastV with the map of the layer before."""
    scores = []

    def method(index, text, image, prompt, look):
        if index == layer - 1:
            scores[:] = look(prompt[-1:])[0]
        if index == layer:
            image[:] = [image[i] for i in best(scores, round(len(image) * keep))]

    return method


def pyramid_drop(layers, ratios):
    """PyramidDrop with the map of the layer that comes."""
    first = []

    def method(index, text, image, prompt, look):
        if index == 0:
            first[:] = [len(image)]
        if index in layers:
            count = int(first[0] * ratios[layers.index(index)])
            image[:] = [image[i] for i in best(look(prompt[-1:])[0], count)]
            renumber(text, image)

    return method


def sparsevlm(layers, keep):
    """SparseVLM with recycling, tokens dropped behind the layers that score them."""
    raters, scores = [], []

    def method(index, text, image, prompt, look):
        if index == 0:
            raters[:] = _raters(prompt, image)
        if index - 1 in layers:
            _prune(text, image, scores, keep[layers.index(index - 1)])
        if index in layers:
            scores[:] = look(raters).mean(axis=0)

    return method


def _raters(prompt, image):
    words = behind(prompt, image)
    products = np.array([[v.hidden @ t.hidden for t in words] for v in image])
    alike = np.mean([reference._softmax(row) for row in products], axis=0)
    found = [t for t, r in zip(words, alike, strict=True) if r > alike.mean()]
    return found or words[:1]


def _prune(text, image, scores, keep):
    kept = best(scores, min(keep, len(image) - 1))
    gone = [i for i in range(len(image)) if i not in kept]
    count = int(0.3 * len(gone)) + 1
    again = [gone[i] for i in best([scores[i] for i in gone], count)]
    means = cluster(np.array([image[i].hidden for i in again]), int(count / 10) + 1)
    places = [token.position for token in image]
    tokens = [image[i] for i in kept]
    # Behind the last token of the image that stays, before the text behind it.
    tokens += [
        reference.Token(mean, places[-1] + (i + 1) / 100, 0)
        for i, mean in enumerate(means)
    ]
    image[:] = tokens
    renumber(text, image)


def cluster(x, clusters):
    """Returns the means of DPC-kNN's clusters, best centre first."""
    count, width = x.shape
    distance = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    distance /= math.sqrt(width)
    density = [math.exp(-np.mean(np.sort(row)[:clusters] ** 2)) for row in distance]
    worth = []
    for i in range(count):
        denser = [distance[i, j] for j in range(count) if density[j] > density[i]]
        worth.append(density[i] * (min(denser) if denser else distance.max()))
    centres = sorted(range(count), key=lambda i: (-worth[i], i))[:clusters]
    joined = [[] for _ in centres]
    for i in range(count):
        nearest = min(range(clusters), key=lambda c: (distance[i, centres[c]], c))
        nearest = centres.index(i) if i in centres else nearest
        joined[nearest].append(x[i])
    return np.array([np.mean(each, axis=0) for each in joined])


def sparsevlm_plus(layers, keep, heads, least_bias, config):
    """SparseVLM+: the heads that look most, weights divided by what is near."""
    raters, scores, width = [], [], config.head_dim
    frequencies = config.rope_theta ** -(np.arange(0, width, 2) / width)

    def bias(word, token):
        angles = (word.position - token.position) * frequencies
        logit = 2 * np.cos(angles).sum() / math.sqrt(width)
        return max(logit, least_bias * math.sqrt(width))

    def method(index, text, image, prompt, look):
        if index == 0:
            raters[:] = _raters(prompt, image)
        if index - 1 in layers:
            count = min(keep[layers.index(index - 1)], len(image) - 1)
            image[:] = [image[i] for i in best(scores, count)]
        if index in layers:
            weights = look(raters, by_head=True)
            most = best(weights.sum(axis=(1, 2)), heads)
            near = np.array([[bias(w, t) for t in image] for w in raters])
            scores[:] = (weights[most].mean(axis=0) / near).mean(axis=0)

    return method


def later_stage(first, layer, remaining, asking):
    """What is left of the crops, numbered anew, and fewer of it before a layer."""

    def method(index, text, image, prompt, look):
        if index == 0:
            image[:] = first
            renumber(text, image)
        if index == layer:
            words = behind(prompt, image) if asking == "instruction" else prompt[-1:]
            count = max(1, int(len(image) * remaining + 1e-9))
            scores = look(words).mean(axis=0)
            image[:] = [image[i] for i in best(scores, count)]
            renumber(text, image)

    return method


def todre(first, layer, threshold, shares):
    """What is left of the crops, until text and image do not look at each other."""

    def method(index, text, image, prompt, look):
        if index == 0:
            image[:] = first
            renumber(text, image)
        if index == layer:
            to_image = look(behind(prompt, image)).sum(axis=1).mean()
            to_text = look(image, prompt).sum(axis=1).mean()
            shares[:] = [to_image, to_text]
            if max(shares) < threshold:
                image[:] = []
                renumber(text, image)

    return method


def behind(prompt, image):
    last = max(token.position for token in image)
    return [token for token in prompt if token.position > last] or prompt[-1:]
