"""Series drawn in the frequency domain: Gaussian processes, coloured noise, spectral peaks.

Every draw is a stationary Gaussian vector made by circulant embedding on a circle at least twice the
length, so that the end of a series never meets its beginning: one real inverse FFT per draw, two
where the law is given as a covariance. Frequencies are in cycles per step, lags and periods in steps.

Circulant embedding: Dietrich and Newsam 1997, doi:10.1137/S1064827592240555.
Kernel algebra: KernelSynth of Chronos, arXiv 2403.07815, section 4.2.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox, seasonal

FAMILIES = (
    "kernel_algebra",
    "coloured_noise",
    "band_limited",
    "spectral_peaks",
    "spectral_mixture",
)

# Kernel kinds: the first four are stationary and have a length scale or a period
_RBF, _RATIONAL, _MATERN, _PERIODIC, _LINEAR, _WHITE = range(6)
_KINDS = 6
_CUMULATIVE = np.cumsum(np.array([0.16, 0.12, 0.16, 0.38, 0.10, 0.08]))
_MOST_KERNELS = 5

# Harmonics of a periodic kernel, in fours: with the shortest length scale below, the rest hold under 1e-4
_HARMONICS = 16
_QUADRATURE = 64
_COSINES = np.array([math.cos(2.0 * math.pi * i / _QUADRATURE) for i in range(_QUADRATURE)])
_SHORTEST_SCALE = 0.35


@numba.njit(nogil=True, cache=True)
def twiddles(size):
    """(2, size): cos and -sin of pi j / h at index h + j, for every half-length h = 1, 2 .. size / 2.

    size: a power of two, 2 or more; the table serves every transform up to that size.
    """
    table = np.empty((2, size))
    half = size // 2
    fine = 1
    while fine * fine < half:
        fine *= 2
    # A coarse and a fine circle multiplied: about 2 sqrt(half) sines, each entry one rounding away
    cos_fine, sin_fine = np.empty(fine), np.empty(fine)
    for j in range(fine):
        cos_fine[j] = math.cos(math.pi * j / half)
        sin_fine[j] = -math.sin(math.pi * j / half)
    for start in range(0, half, fine):
        c, s = math.cos(math.pi * start / half), -math.sin(math.pi * start / half)
        for j in range(min(fine, half - start)):
            table[0, half + start + j] = c * cos_fine[j] - s * sin_fine[j]
            table[1, half + start + j] = s * cos_fine[j] + c * sin_fine[j]
    while half > 1:
        half //= 2
        for j in range(half):
            table[0, half + j] = table[0, 2 * (half + j)]
            table[1, half + j] = table[1, 2 * (half + j)]
    table[0, 0], table[1, 0] = 1.0, 0.0
    return table


@numba.njit(nogil=True, cache=True)
def fft(re, im, table):
    """Forward transform in place of re + i im (n,), n a power of two; swapped arguments invert.

    table: twiddles of at least n. Unscaled both ways.
    """
    n = re.size
    j = 0
    for i in range(1, n):
        bit = n >> 1
        while j & bit:
            j ^= bit
            bit >>= 1
        j |= bit
        if i < j:
            re[i], re[j] = re[j], re[i]
            im[i], im[j] = im[j], im[i]
    first = 1
    if n >= 4:
        # The first two stages have only trivial twiddles
        first = 4
        for i in range(0, n, 4):
            ar, ai = re[i] + re[i + 1], im[i] + im[i + 1]
            br, bi = re[i] - re[i + 1], im[i] - im[i + 1]
            cr, ci = re[i + 2] + re[i + 3], im[i + 2] + im[i + 3]
            dr, di = re[i + 2] - re[i + 3], im[i + 2] - im[i + 3]
            re[i], im[i] = ar + cr, ai + ci
            re[i + 1], im[i + 1] = br + di, bi - dr
            re[i + 2], im[i + 2] = ar - cr, ai - ci
            re[i + 3], im[i + 3] = br - di, bi + dr
    half = first
    while half < n:
        cos, sin = table[0, half : 2 * half], table[1, half : 2 * half]
        for start in range(0, n, 2 * half):
            # Slices, so that the inner loop has four plain streams and vectorises
            ur, ui = re[start : start + half], im[start : start + half]
            vr, vi = re[start + half : start + 2 * half], im[start + half : start + 2 * half]
            for k in range(half):
                tr = cos[k] * vr[k] - sin[k] * vi[k]
                ti = cos[k] * vi[k] + sin[k] * vr[k]
                vr[k], vi[k] = ur[k] - tr, ui[k] - ti
                ur[k], ui[k] = ur[k] + tr, ui[k] + ti
        half *= 2


@numba.njit(nogil=True, cache=True)
def circle_size(length, stretch):
    """The power of two at or above stretch * length, 16 at least."""
    size = 16
    while size < stretch * length:
        size *= 2
    return size


@numba.njit(nogil=True, cache=True)
def draw(rng, eigenvalues, table, out):
    """Fill out (T,) with a stationary Gaussian vector.

    eigenvalues: (n/2 + 1,), the covariance's transform on a circle of n >= T steps, frequency k / n;
    negative ones count as zero. table: twiddles of at least n.
    """
    m = eigenvalues.size - 1
    n = 2 * m
    xr, xi = np.empty(m + 1), np.empty(m + 1)
    philox.fill_normal(rng, xr)
    philox.fill_normal(rng, xi)
    for k in range(m + 1):
        scale = math.sqrt(max(eigenvalues[k], 0.0) / (2.0 * n))
        xr[k] *= scale
        xi[k] *= scale
    # The two frequencies that are real carry the whole variance in one normal
    xr[0], xi[0] = xr[0] * math.sqrt(2.0), 0.0
    xr[m], xi[m] = xr[m] * math.sqrt(2.0), 0.0
    # A real series of n as a complex one of m: even steps real, odd steps imaginary
    zr, zi = np.empty(m), np.empty(m)
    cos, sin = table[0, m : 2 * m], table[1, m : 2 * m]
    for k in range(m):
        er, ei = xr[k] + xr[m - k], xi[k] - xi[m - k]
        dr, di = xr[k] - xr[m - k], xi[k] + xi[m - k]
        odd_r = dr * cos[k] + di * sin[k]
        odd_i = di * cos[k] - dr * sin[k]
        zr[k], zi[k] = er - odd_i, ei + odd_r
    fft(zi, zr, table)
    for t in range(out.size):
        out[t] = zr[t // 2] if t % 2 == 0 else zi[t // 2]


@numba.njit(nogil=True, cache=True)
def eigenvalues_of(row, table):
    """(m + 1,) covariance at lags 0..m -> (m + 1,) eigenvalues on the circle of 2 m steps."""
    m = row.size - 1
    zr, zi = np.empty(m), np.empty(m)
    for j in range(m):
        even, odd = 2 * j, 2 * j + 1
        zr[j] = row[even] if even <= m else row[2 * m - even]
        zi[j] = row[odd] if odd <= m else row[2 * m - odd]
    fft(zr, zi, table)
    result = np.empty(m + 1)
    for k in range(m):
        mirror = (m - k) % m
        even_r = 0.5 * (zr[k] + zr[mirror])
        odd_r, odd_i = 0.5 * (zi[k] + zi[mirror]), 0.5 * (zr[mirror] - zr[k])
        result[k] = even_r + table[0, m + k] * odd_r - table[1, m + k] * odd_i
    # At half the sampling rate the odd steps enter with the other sign than at zero
    result[m] = zr[0] - zi[0]
    return result


@numba.njit(nogil=True, cache=True)
def taper(row):
    """Multiply row (m + 1,) in place by a compactly supported correlation that vanishes at lag m.

    A product of covariances is one, and one that ends within the circle embeds without any negative
    eigenvalue: clipping those would smear a periodic kernel's lines into noise.
    Wendland 1995, the C4 function for three dimensions.
    """
    m = row.size - 1
    for d in range(m + 1):
        u = d / m
        rest = (1.0 - u) * (1.0 - u) * (1.0 - u)
        row[d] *= rest * rest * (35.0 * u * u + 18.0 * u + 3.0) / 3.0


@numba.njit(nogil=True, cache=True)
def multiply_kernel(row, kind, scale, shape):
    """Multiply row (m + 1,), covariances at lags 0..m, by one stationary kernel of variance 1.

    scale: length scale in steps, or the period; shape: mixture exponent of the rational quadratic
    (a quarter, a half, 1 or 2), 2 nu of the Matern (1, 3 or 5), or length scale of the periodic.
    """
    if kind == _RBF:
        # exp of a parabola by its second ratio, which is constant
        value, ratio = 1.0, math.exp(-0.5 / (scale * scale))
        square = ratio * ratio
        for d in range(row.size):
            row[d] *= value
            value *= ratio
            ratio *= square
    elif kind == _RATIONAL:
        for d in range(row.size):
            base = 1.0 + d * d / (2.0 * shape * scale * scale)
            if shape == 2.0:
                row[d] /= base * base
            elif shape == 1.0:
                row[d] /= base
            elif shape == 0.5:
                row[d] /= math.sqrt(base)
            else:
                row[d] /= math.sqrt(math.sqrt(base))
    elif kind == _MATERN:
        step = math.sqrt(shape) / scale
        decay, value = math.exp(-step), 1.0
        for d in range(row.size):
            r = step * d
            if shape == 1.0:
                row[d] *= value
            elif shape == 3.0:
                row[d] *= value * (1.0 + r)
            else:
                row[d] *= value * (1.0 + r + r * r / 3.0)
            value *= decay
    else:
        # One cycle is enough where the period is whole; elsewhere every lag has its own phase
        whole = np.int64(scale)
        cycle = min(whole, row.size) if whole == scale else row.size
        values = np.empty(cycle)
        step = 2.0 * math.pi / scale
        c, s = math.cos(step), math.sin(step)
        x, y = 1.0, 0.0
        for d in range(cycle):
            values[d] = math.exp((x - 1.0) / (shape * shape))
            x, y = x * c - y * s, x * s + y * c
        for start in range(0, row.size, cycle):
            for d in range(min(cycle, row.size - start)):
                row[start + d] *= values[d]


@numba.njit(nogil=True, cache=True)
def _add_four_waves(x, y, c, s, out):
    """Add four sines, states x, y (4,) and turns c, s (4,), to out (T,): side by side, as each waits on itself."""
    x0, x1, x2, x3, y0, y1, y2, y3 = x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]
    c0, c1, c2, c3, s0, s1, s2, s3 = c[0], c[1], c[2], c[3], s[0], s[1], s[2], s[3]
    for t in range(out.size):
        out[t] = (((out[t] + x0) + x1) + x2) + x3
        x0, y0 = x0 * c0 - y0 * s0, x0 * s0 + y0 * c0
        x1, y1 = x1 * c1 - y1 * s1, x1 * s1 + y1 * c1
        x2, y2 = x2 * c2 - y2 * s2, x2 * s2 + y2 * c2
        x3, y3 = x3 * c3 - y3 * s3, x3 * s3 + y3 * c3


@numba.njit(nogil=True, cache=True)
def multiply_periodic(rng, period, shape, out):
    """Multiply out (T,) by a draw of the periodic kernel: the same cycle for ever.

    period: steps, 2 or more; shape: length scale of the kernel.
    """
    cycle = np.empty(min(out.size, np.int64(period)) if period == math.floor(period) else out.size)
    # The kernel is a mixture of harmonics whose weights are its Fourier coefficients
    kernel = np.empty(_QUADRATURE)
    for i in range(_QUADRATURE):
        kernel[i] = math.exp((_COSINES[i] - 1.0) / (shape * shape))
    cycle[:] = math.sqrt(kernel.mean()) * philox.normal(rng)
    # State and turn of each harmonic; those left at zero add nothing
    waves, count = np.zeros((4, _HARMONICS)), 0
    x, y, c, s = waves[0], waves[1], waves[2], waves[3]
    for j in range(1, _HARMONICS + 1):
        # At or above half the sampling rate a harmonic would be taken for a slower one
        if 2.0 * j >= period:
            break
        power = 0.0
        for i in range(_QUADRATURE):
            power += kernel[i] * _COSINES[(i * j) % _QUADRATURE]
        scale = math.sqrt(max(2.0 * power / _QUADRATURE, 0.0))
        x[count], y[count] = scale * philox.normal(rng), scale * philox.normal(rng)
        step = 2.0 * math.pi * j / period
        c[count], s[count] = math.cos(step), math.sin(step)
        count += 1
    for k in range(0, count, 4):
        _add_four_waves(x[k : k + 4], y[k : k + 4], c[k : k + 4], s[k : k + 4], cycle)
    for start in range(0, out.size, cycle.size):
        for t in range(min(cycle.size, out.size - start)):
            out[start + t] *= cycle[t]


@numba.njit(nogil=True, cache=True)
def _draw_kernels(rng, length, kinds, scales, shapes, joins):
    """Fill the kernels' kinds, scales, shapes and joins (0 plus, 1 times the one before)."""
    for i in range(kinds.size):
        u = philox.uniform(rng)
        kind = _KINDS - 1
        for k in range(_KINDS - 1):
            if u < _CUMULATIVE[k]:
                kind = k
                break
        kinds[i], shapes[i] = kind, 1.0
        if kind == _PERIODIC:
            scales[i] = seasonal.period(rng, length)
            shapes[i] = philox.log_uniform(rng, _SHORTEST_SCALE, 2.0)
        else:
            scales[i] = philox.log_uniform(rng, 2.0, max(4.0, length))
        if kind == _RATIONAL:
            shapes[i] = 0.25 * 2.0 ** philox.integer(rng, 0, 4)
        elif kind == _MATERN:
            shapes[i] = 1.0 + 2.0 * philox.integer(rng, 0, 3)
        # White times anything is white: it joins by plus alone
        free = i > 0 and kind != _WHITE and kinds[i - 1] != _WHITE
        joins[i] = 1 if free and philox.bernoulli(rng, 0.5) else 0


@numba.njit(nogil=True, cache=True)
def kernel_algebra(rng, out):
    """One to five kernels joined by + and x, x first: a draw of the covariance they define.

    Products that decay go into covariance rows, tapered on the circle. In the others each periodic kernel is
    drawn as an exact cycle: two multiplied are not Gaussian, but never fade. Each linear kernel multiplies
    by a line through a common zero.
    """
    length = out.size
    count = philox.integer(rng, 1, _MOST_KERNELS + 1)
    kinds, joins = np.empty(count, np.int64), np.empty(count, np.int64)
    scales, shapes = np.empty(count), np.empty(count)
    _draw_kernels(rng, length, kinds, scales, shapes, joins)
    zero = philox.between(rng, -0.5, 1.5)
    # A circle of twice the length suffices for short memory; the taper asks for more when it is long
    stretch = 2.0
    for i in range(count):
        if kinds[i] < _PERIODIC and scales[i] > 0.1 * length:
            stretch = 4.0
    n = circle_size(length, stretch)
    # By the number of linear kernels
    rows = np.zeros((count + 1, n // 2 + 1))
    used = np.zeros(count + 1, np.bool_)
    product = np.empty(n // 2 + 1)
    part = np.empty(length)
    out[:] = 0.0
    start = 0
    while start < count:
        stop = start + 1
        while stop < count and joins[stop] == 1:
            stop += 1
        weight = philox.log_uniform(rng, 0.2, 1.0)
        linear = periodic = decaying = 0
        for i in range(start, stop):
            linear += kinds[i] == _LINEAR
            periodic += kinds[i] == _PERIODIC
            decaying += kinds[i] < _PERIODIC
        if decaying > 0:
            product[:] = weight * weight
            for i in range(start, stop):
                if kinds[i] != _LINEAR:
                    multiply_kernel(product, kinds[i], scales[i], shapes[i])
            used[linear] = True
            for d in range(product.size):
                rows[linear, d] += product[d]
        else:
            if kinds[start] == _WHITE:
                philox.fill_normal(rng, part)
            else:
                part[:] = 1.0 if periodic > 0 else philox.normal(rng)
            for i in range(start, stop):
                if kinds[i] == _PERIODIC:
                    multiply_periodic(rng, scales[i], shapes[i], part)
            for t in range(length):
                out[t] += weight * (t / length - zero) ** linear * part[t]
        start = stop
    if used.any():
        table = twiddles(n)
        for linear in range(count + 1):
            if used[linear]:
                taper(rows[linear])
                draw(rng, eigenvalues_of(rows[linear], table), table, part)
                for t in range(length):
                    out[t] += (t / length - zero) ** linear * part[t]


@numba.njit(nogil=True, cache=True)
def _draw_power(rng, power, out):
    """Fill out (T,) from power (n/2 + 1,) at frequencies k / n."""
    draw(rng, power, twiddles(2 * (power.size - 1)), out)


@numba.njit(nogil=True, cache=True)
def _power_law(power, exponent, knee):
    """Fill power (m + 1,) with k^-exponent, flat below bin knee: interpolated, so few logarithms."""
    step = 1
    k = 0
    left = max(1.0, knee) ** -exponent
    while k < power.size:
        # Finer than a thirtieth of the frequency: the curve bends less than a thousandth there
        step = max(1, k // 32)
        right = max(1.0, max(knee, float(k + step))) ** -exponent
        for j in range(min(step, power.size - k)):
            power[k + j] = left + (right - left) * j / step
        left = right
        k += step


@numba.njit(nogil=True, cache=True)
def coloured_noise(rng, out):
    """Power 1 / f^a with a from white to beyond a random walk, for half flat below a knee."""
    n = circle_size(out.size, 2.0)
    power = np.empty(n // 2 + 1)
    exponent = philox.between(rng, 0.0, 2.6)
    # Half remember as far back as the series goes, half forget sooner
    knee = philox.log_uniform(rng, 1.0, n / 8.0) if philox.bernoulli(rng, 0.5) else 1.0
    _power_law(power, exponent, knee)
    # The mean carries no shape, and for a steep law it would be most of the variance
    power[0] = 0.0
    _draw_power(rng, power, out)


@numba.njit(nogil=True, cache=True)
def _add_bump(power, centre, width, weight):
    """Add a Gaussian bump over log frequency at bin centre, of integral weight, to power (m + 1,)."""
    reach = math.exp(4.0 * width)
    low = max(1, np.int64(centre / reach))
    high = min(power.size - 1, np.int64(centre * reach) + 1)
    height = weight / (centre * width)
    for k in range(low, high + 1):
        z = math.log(k / centre) / width
        power[k] += height * math.exp(-0.5 * z * z)


@numba.njit(nogil=True, cache=True)
def band_limited(rng, out):
    """Noise in a band of frequencies with soft edges: quasi-cycles that wander in phase and size."""
    n = circle_size(out.size, 2.0)
    power = np.zeros(n // 2 + 1)
    m = power.size - 1
    low = philox.log_uniform(rng, 1.0, m / 2.0)
    high = min(float(m), low * philox.log_uniform(rng, 1.1, 16.0))
    edge = philox.log_uniform(rng, 2.0, 12.0)
    floor = philox.log_uniform(rng, 1e-6, 1e-2)
    power[:] = floor
    # Beyond the reach an edge is under the floor
    reach = 30.0
    for k in range(max(1, np.int64(low / reach)), min(m, np.int64(high * reach)) + 1):
        ratio = low / k if k < low else (k / high if k > high else 1.0)
        power[k] += math.exp(-edge * math.log(ratio)) if ratio > 1.0 else 1.0
    _draw_power(rng, power, out)


@numba.njit(nogil=True, cache=True)
def spectral_peaks(rng, out):
    """One to four calendar cycles of finite line width with harmonics, over a power-law floor."""
    n = circle_size(out.size, 2.0)
    power = np.empty(n // 2 + 1)
    m = power.size - 1
    _power_law(power, philox.between(rng, 0.0, 2.2), philox.log_uniform(rng, 1.0, n / 16.0))
    power[0] = 0.0
    total = 0.0
    for k in range(m + 1):
        total += power[k]
    floor = philox.log_uniform(rng, 0.003, 1.0) / max(total, 1e-300)
    for k in range(m + 1):
        power[k] *= floor
    for _ in range(philox.integer(rng, 1, 5)):
        base = n / seasonal.period(rng, out.size)
        weight = philox.log_uniform(rng, 0.1, 1.0)
        decay = philox.between(rng, 0.15, 0.9)
        # Relative width: from a clock that never slips to a rhythm that forgets in a few cycles
        width = philox.log_uniform(rng, 1e-4, 0.1)
        for harmonic in range(1, philox.integer(rng, 1, 9) + 1):
            centre = base * harmonic
            if centre > m:
                break
            # Lorentz line, no narrower than a bin: what is narrower falls between two
            half = max(0.7, width * centre)
            low = max(1, np.int64(centre - 12.0 * half))
            high = min(m, np.int64(centre + 12.0 * half) + 1)
            for k in range(low, high + 1):
                z = (k - centre) / half
                power[k] += weight / (half * (1.0 + z * z))
            weight *= decay
    _draw_power(rng, power, out)


@numba.njit(nogil=True, cache=True)
def spectral_mixture(rng, out):
    """Two to six bumps over log frequency with heavy-tailed weights."""
    n = circle_size(out.size, 2.0)
    power = np.zeros(n // 2 + 1)
    m = power.size - 1
    for _ in range(philox.integer(rng, 2, 7)):
        centre = philox.log_uniform(rng, 1.0, float(m))
        width = philox.log_uniform(rng, 0.02, 0.7)
        _add_bump(power, centre, width, philox.exponential(rng) ** 2 + 1e-3)
    _draw_power(rng, power, out)
