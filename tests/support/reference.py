"""Independent oracles in plain NumPy, float64, written from the definitions and not from the code under test."""

import numpy as np


def halve_area(x):
    """2x2 block means."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def double_bilinear(x):
    """align_corners=True: output i samples the input at i (n - 1) / (2n - 1), by interpolation between neighbours."""
    for axis in (1, 2):
        n = x.shape[axis]
        position = np.arange(2 * n) * (n - 1) / (2 * n - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, n - 1)
        weight = (position - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return x


def conv_same(x, kernel):
    """Cross-correlation with zero padding and odd kernel sizes, `[B, H, W, C] * [h, w, C, D]`."""
    (b, h, w, _), (kh, kw, _, d) = x.shape, kernel.shape
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    y = np.zeros((b, h, w, d))
    for i in range(kh):
        for j in range(kw):
            y += padded[:, i : i + h, j : j + w] @ kernel[i, j]
    return y


def layer_norm(x, scale, bias):
    """Mean and variance over H, W and C of each sample."""
    out = np.empty_like(x)
    for i, sample in enumerate(x):
        out[i] = (sample - sample.mean()) / np.sqrt(sample.var() + 1e-12)
    return out * scale + bias


def leaky_relu(x):
    """Slope 0.2 below zero."""
    return np.where(x > 0, x, 0.2 * x)


def cascade(params, layout, num_images, final_norm, norm=True, layout_at="every"):
    """Section 3.2 of the paper, with the released program's output scale; or an ablation of it."""
    modules = sum(name.startswith("module_") for name in params)
    layouts = [layout]
    for _ in range(modules - 1):
        layouts.append(halve_area(layouts[-1]))
    features = None
    for i in range(modules):
        small = layouts[modules - 1 - i]
        x = small if i == 0 else double_bilinear(features)
        if i and layout_at == "every":
            x = np.concatenate([x, small], -1)
        module = params[f"module_{i}"]
        for n in (1, 2):
            x = conv_same(x, module[f"conv{n}"]["kernel"])
            if not norm:
                x = leaky_relu(x + module[f"norm{n}"]["bias"])
            elif n == 1 or i < modules - 1 or final_norm:
                x = leaky_relu(layer_norm(x, module[f"norm{n}"]["scale"], module[f"norm{n}"]["bias"]))
        features = x
    rgb = conv_same(features, params["to_rgb"]["kernel"]) + params["to_rgb"]["bias"]
    images = [rgb[..., [u, num_images + u, 2 * num_images + u]] for u in range(num_images)]
    return (np.stack(images, 1) + 1) / 2 * 255


def pool(x, kind):
    """2x2 windows at stride 2 over real pixels only; a last odd row or column makes a window of its own."""
    h, w = x.shape[1:3]
    reduce = np.mean if kind == "average" else np.max
    rows = [
        [reduce(x[:, i : i + 2, j : j + 2].reshape(len(x), -1, x.shape[-1]), 1) for j in range(0, w, 2)] for i in range(0, h, 2)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def vgg19(params, images, kind="average"):
    """The five taps after ReLU, and the image less the mean."""
    taps = {"input": images - params["mean"]}
    x = taps["input"]
    for block, convs in enumerate((2, 2, 4, 4, 2), 1):
        x = x if block == 1 else pool(x, kind)
        for n in range(1, convs + 1):
            layer = params[f"conv{block}_{n}"]
            x = np.maximum(conv_same(x, np.asarray(layer["kernel"], float)) + layer["bias"], 0)
            if n == 2:
                taps[f"conv{block}_2"] = x
    return taps


def collection_terms(features, references, layout):
    """Section 3.4, Eq. 3: t[u, p, l] = mean over pixels of L_p^l times the mean over maps of |difference|, one example.

    Features are lists over layers, `[k, h, w, C]` of the images and `[h, w, C]` of the photograph; layout `[H, W, c]`.
    """
    terms = np.zeros((len(features[0]), layout.shape[-1], len(features)))
    for layer, (images, photograph) in enumerate(zip(features, references)):
        h, w = photograph.shape[:2]
        rows, columns = layout.shape[0] // h, layout.shape[1] // w
        for u, image in enumerate(images):
            difference = np.abs(photograph - image).mean(-1)
            for p in range(layout.shape[-1]):
                mask = layout[..., p].reshape(h, rows, w, columns).mean((1, 3))  # by area
                terms[u, p, layer] = (mask * difference).mean()
    return terms


def equation_2(terms, weights):
    """min_u sum_l, of one example's terms `[k, c, 6]`."""
    return min((image.sum(0) * weights).sum() for image in terms)


def equation_3(terms, weights, mean_share=0.0):
    """sum_p min_u sum_l, with the mean over u for a share of the least, as in the released program."""
    total = 0.0
    for p in range(terms.shape[1]):
        losses = [(image[p] * weights).sum() for image in terms]
        total += (1 - mean_share) * min(losses) + mean_share * sum(losses) / len(losses)
    return total


def encoder_decoder(params, x):
    """A U-Net of the cascade's layers: its levels are joined by 2x2 means and by bilinear doubling, then skips."""
    levels = sum(name.startswith("encoder_") and name.endswith("conv1") for name in params)

    def block(x, name):
        for n in (1, 2):
            x = conv_same(x, params[f"{name}_conv{n}"]["kernel"])
            x = leaky_relu(layer_norm(x, params[f"{name}_norm{n}"]["scale"], params[f"{name}_norm{n}"]["bias"]))
        return x

    skips = [block(x, "encoder_0")]
    for i in range(1, levels):
        skips.append(block(halve_area(skips[-1]), f"encoder_{i}"))
    x = skips.pop()
    for i in reversed(range(levels - 1)):
        x = block(np.concatenate([double_bilinear(x), skips[i]], -1), f"decoder_{i}")
    return conv_same(x, params["to_output"]["kernel"]) + params["to_output"]["bias"]
