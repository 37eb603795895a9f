# $PIC is a PNG picture (64 x 48), $PHOTO a larger one with noise, $COVER a JPEG.

## imagemagick : convert-im6.q16 -version | head -1
c() { convert-im6.q16 "$@" 2>/dev/null; }
for e in png jpg gif bmp tiff webp avif heic jp2 j2k psd psb hdr ico cur tga dds dpx pcx ppm pgm pbm pam pfm sgi sun xpm xbm miff mng jng fits cin dcx palm pict pnm viff vicar wbmp xwd pcl ps eps ps3 pdf ptif tiff64 jbig mtv otb rgf art aai picon fax g3 bie; do c "$PIC" "$OUT/im-a.$e" || rm -f "$OUT/im-a.$e"; done
c "$PIC" PNG8:"$OUT/im-8.png"; c "$PIC" PNG48:"$OUT/im-48.png"; c "$PIC" -interlace PNG "$OUT/im-inter.png"; c "$PHOTO" -quality 95 "$OUT/im-photo.jpg"; c "$PHOTO" -interlace JPEG "$OUT/im-prog.jpg"; c "$PIC" -colorspace CMYK "$OUT/im-cmyk.jpg"; c "$PIC" -colorspace Gray "$OUT/im-gray.jpg"
for z in None LZW Zip RLE JPEG; do c "$PHOTO" -compress $z "$OUT/im-$z.tiff"; done; c "$PIC" "$PHOTO" "$OUT/im-multi.tiff"; c "$PIC" "$PIC" -delay 10 -loop 0 "$OUT/im-anim.gif"; c "$PIC" "$PIC" -delay 10 "$OUT/im-anim.webp"; c "$PIC" -define webp:lossless=true "$OUT/im-lossless.webp"; c "$PHOTO" "$OUT/im-photo.webp"; c "$PIC" BMP3:"$OUT/im-3.bmp"; c "$PIC" -type Palette -compress RLE "$OUT/im-rle.bmp"; c "$PIC" -resize 32x32 -define icon:auto-resize=32,16 "$OUT/im-sizes.ico"; c "$PHOTO" -define dds:compression=dxt5 "$OUT/im-dxt5.dds"; c "$PIC" -compress RLE "$OUT/im-rle.psd"; c "$PIC" -endian MSB "$OUT/im-msb.tiff"; c "$PHOTO" -compress Zip "$OUT/im-photo.psd"; c "$PIC" -compress RLE "$OUT/im-rle.tga"; c "$PHOTO" "$OUT/im-photo.ico"; c "$PHOTO" -compress None "$OUT/im-plain.ppm"; c "$PHOTO" "$OUT/im-photo.png"
c "$PIC" -alpha set -channel A -evaluate set 50% "$OUT/im-alpha.webp"; c "$PHOTO" "$OUT/im-photo.hdr"; c "$PHOTO" "$OUT/im-photo.dpx"; c "$PHOTO" "$OUT/im-photo.jp2"

## ffmpeg : ffmpeg -version | head -1
for e in png jpg bmp tiff webp jp2 j2k jxl exr hdr tga dpx pcx ppm pgm pam pfm sgi sun xwd xbm qoi jls fits ico gif; do ffmpeg -nostdin -v error -y -i "$PHOTO" -frames:v 1 "$OUT/ffmpeg-i.$e" 2>/dev/null || rm -f "$OUT/ffmpeg-i.$e"; done
ffmpeg -nostdin -v error -y -i "$PHOTO" -frames:v 1 -compression_algo raw "$OUT/ffmpeg-raw.tiff"; ffmpeg -nostdin -v error -y -i "$PHOTO" -frames:v 1 -compression_algo deflate "$OUT/ffmpeg-deflate.tiff"; ffmpeg -nostdin -v error -i "$PHOTO" -f image2pipe -c:v png - | cat > "$OUT/ffmpeg-pipe.png"; ffmpeg -nostdin -v error -i "$PHOTO" -f image2pipe -c:v mjpeg - | cat > "$OUT/ffmpeg-pipe.jpg"; ffmpeg -nostdin -v error -y -i "$PHOTO" -compression 1 "$OUT/ffmpeg-rle.exr"; ffmpeg -nostdin -v error -y -i "$PHOTO" -compression 3 "$OUT/ffmpeg-zip16.exr"; ffmpeg -nostdin -v error -y -i "$PHOTO" -frames:v 1 -huffman optimal -q:v 3 "$OUT/ffmpeg-q3.jpg"; ffmpeg -nostdin -v error -y -i "$PHOTO" -c:v libwebp -lossless 1 "$OUT/ffmpeg-lossless.webp"; ffmpeg -nostdin -v error -y -i "$PIC" -c:v hap -s 64x48 "$OUT/ffmpeg-hap.mov"

## libjxl : cjxl --version 2>&1 | head -1
cjxl --quiet "$PIC" "$OUT/cjxl.jxl" 2>/dev/null; cjxl --quiet --container=1 "$PIC" "$OUT/cjxl-box.jxl" 2>/dev/null; cjxl --quiet "$COVER" "$OUT/cjxl-jpeg.jxl" 2>/dev/null; cjxl --quiet -d 0 "$PIC" "$OUT/cjxl-lossless.jxl" 2>/dev/null; cjxl --quiet -p "$PHOTO" "$OUT/cjxl-progressive.jxl" 2>/dev/null; cjxl --quiet --container=1 -d 0 "$PHOTO" "$OUT/cjxl-box-lossless.jxl" 2>/dev/null; djxl --quiet "$OUT/cjxl.jxl" "$OUT/djxl.png" 2>/dev/null; djxl --quiet "$OUT/cjxl.jxl" "$OUT/djxl.pfm" 2>/dev/null; djxl --quiet "$OUT/cjxl.jxl" "$OUT/djxl.ppm"; djxl --quiet "$OUT/cjxl-jpeg.jxl" "$OUT/djxl.jpg"

## libheif : heif-enc --help 2>&1 | head -1
heif-enc "$PIC" -o "$OUT/heif-enc.heic"; heif-enc -A "$PIC" -o "$OUT/heif-enc.avif"; heif-enc -L "$PIC" -o "$OUT/heif-enc-lossless.heic"; heif-enc -t 32 "$PHOTO" -o "$OUT/heif-enc-thumb.heic"; heif-enc "$PIC" "$PHOTO" -o "$OUT/heif-enc-two.heic"

## libavif : avifenc --version | head -1
avifenc -s 10 "$PIC" "$OUT/avifenc.avif" >/dev/null; avifenc -s 10 -l "$PIC" "$OUT/avifenc-lossless.avif" >/dev/null; avifenc -s 10 "$PIC" "$PIC" "$OUT/avifenc-seq.avif" >/dev/null; avifenc -s 10 "$PHOTO" "$OUT/avifenc-photo.avif" >/dev/null; avifenc -s 10 -g 2x1 "$PHOTO" "$PHOTO" "$OUT/avifenc-grid.avif" >/dev/null; avifdec "$OUT/avifenc.avif" "$OUT/avifdec.png" >/dev/null; avifdec "$OUT/avifenc.avif" "$OUT/avifdec.jpg" >/dev/null; avifdec "$OUT/avifenc.avif" "$OUT/avifdec.y4m" >/dev/null

## libwebp : cwebp -version | head -1
cwebp -quiet "$PIC" -o "$OUT/cwebp.webp"; cwebp -quiet -lossless "$PIC" -o "$OUT/cwebp-lossless.webp"; cwebp -quiet "$PHOTO" -o - | cat > "$OUT/cwebp-pipe.webp"; cwebp -quiet -metadata all "$COVER" -o "$OUT/cwebp-meta.webp"; img2webp "$PIC" "$PIC" -o "$OUT/img2webp.webp" >/dev/null 2>&1; convert-im6.q16 "$PIC" \( "$PIC" -flip \) in.gif; gif2webp -quiet in.gif -o "$OUT/gif2webp.webp"; dwebp -quiet "$OUT/cwebp.webp" -o "$OUT/dwebp.png"; dwebp -quiet "$OUT/cwebp.webp" -bmp -o "$OUT/dwebp.bmp"; dwebp -quiet "$OUT/cwebp.webp" -tiff -o "$OUT/dwebp.tiff"; dwebp -quiet "$OUT/cwebp.webp" -pam -o "$OUT/dwebp.pam"

## openjpeg : opj_compress -h 2>&1 | grep -i version | head -1
convert-im6.q16 "$PIC" in.ppm; opj_compress -i in.ppm -o "$OUT/opj.jp2" >/dev/null; opj_compress -i in.ppm -o "$OUT/opj.j2k" >/dev/null; opj_compress -i in.ppm -o "$OUT/opj-r.jp2" -r 20 -t 32,32 >/dev/null

## libjpeg-turbo : cjpeg -version 2>&1 | head -1
convert-im6.q16 "$PHOTO" in.ppm; cjpeg in.ppm > "$OUT/cjpeg.jpg"; cjpeg -progressive in.ppm > "$OUT/cjpeg-prog.jpg"; cjpeg -arithmetic in.ppm > "$OUT/cjpeg-arith.jpg"; cjpeg -restart 1 in.ppm > "$OUT/cjpeg-restart.jpg"; jpegtran -copy all -optimize "$OUT/cjpeg.jpg" > "$OUT/jpegtran.jpg"; djpeg "$OUT/cjpeg.jpg" > "$OUT/djpeg.ppm"; djpeg -bmp "$OUT/cjpeg.jpg" > "$OUT/djpeg.bmp"

## netpbm : pnmtopng -version 2>&1 | grep -i version | head -1
convert-im6.q16 "$PIC" in.ppm; pnmtopng in.ppm > "$OUT/pnmtopng.png"; pnmtotiff in.ppm > "$OUT/pnmtotiff.tiff"; ppmtobmp in.ppm > "$OUT/ppmtobmp.bmp" 2>/dev/null; pnmtosgi in.ppm > "$OUT/pnmtosgi.sgi"; ppmtopcx in.ppm > "$OUT/ppmtopcx.pcx" 2>/dev/null; pnmtorast in.ppm > "$OUT/pnmtorast.ras"; ppmtotga in.ppm > "$OUT/ppmtotga.tga"; pnmtops in.ppm > "$OUT/pnmtops.ps" 2>/dev/null; pnmtofiasco in.ppm > "$OUT/a.fiasco" 2>/dev/null || rm -f "$OUT/a.fiasco"; pamtohdr 2>/dev/null; pamtopfm in.ppm > "$OUT/pamtopfm.pfm" 2>/dev/null

## gifsicle : gifsicle --version | head -1
convert-im6.q16 "$PIC" "$PIC" in.gif; gifsicle -O2 in.gif -o "$OUT/gifsicle.gif" 2>/dev/null

## optipng : optipng -v | head -1
optipng -quiet -out "$OUT/optipng.png" "$PIC" 2>/dev/null

## pngcrush : pngcrush -version 2>&1 | grep pngcrush | head -1
pngcrush -q "$PIC" "$OUT/pngcrush.png" 2>/dev/null

## exiftool : exiftool -ver
cp "$COVER" in.jpg; exiftool -q -o "$OUT/exiftool.jpg" -artist=x -xmp:title=y in.jpg; exiftool -q -o "$OUT/exiftool.png" -xmp:title=y "$PIC"; convert-im6.q16 "$PIC" in.tiff; exiftool -q -o "$OUT/exiftool.tiff" -artist=x in.tiff; cwebp -quiet "$PIC" -o in.webp; exiftool -q -o "$OUT/exiftool.webp" -xmp:title=y in.webp; cjxl --quiet --container=1 "$PIC" in.jxl 2>/dev/null; exiftool -q -o "$OUT/exiftool.jxl" -xmp:title=y in.jxl; convert-im6.q16 "$PIC" in.gif; exiftool -q -o "$OUT/exiftool.gif" -xmp:title=y in.gif; exiftool -q -o "$OUT/exiftool-thumb.jpg" "-thumbnailimage<=$COVER" in.jpg; heif-enc "$PIC" -o in.heic; exiftool -q -o "$OUT/exiftool.heic" -xmp:title=y in.heic; convert-im6.q16 "$PIC" in.psd; exiftool -q -o "$OUT/exiftool.psd" -xmp:title=y in.psd; opj_compress -i in.ppm -o in.jp2 >/dev/null 2>&1

## librsvg : rsvg-convert --version
echo '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><circle cx="20" cy="20" r="15" fill="red"/><text x="5" y="30">words</text></svg>' > in.svg
for e in png pdf ps eps svg; do rsvg-convert -f $e in.svg -o "$OUT/rsvg.$e"; done

## libtiff : tiffcp 2>&1 | head -2 | grep -i lib
convert-im6.q16 "$PHOTO" -compress None in.tiff; for z in lzw zip packbits jpeg; do tiffcp -c $z in.tiff "$OUT/tiffcp-$z.tiff" 2>/dev/null; done; tiffcp -t -w 32 -l 32 in.tiff "$OUT/tiffcp-tiled.tiff"; tiffcp -8 in.tiff "$OUT/tiffcp-big.tiff"; tiffcp -B in.tiff "$OUT/tiffcp-msb.tiff"

## imagemagick : convert-im6.q16 -version | head -1
for e in png jpg gif bmp tiff webp avif heic jp2 psd ico tga dds dpx ppm pam pfm sgi sun hdr fits miff; do convert-im6.q16 "$PHOTO" "$e:-" 2>/dev/null | cat > "$OUT/im-pipe.$e"; done
convert-im6.q16 "$PHOTO" -compress Zip "$OUT/im-zip.psb" 2>/dev/null; convert-im6.q16 "$PHOTO" "$PIC" "$OUT/im-layers.psd"; convert-im6.q16 "$PHOTO" -define dds:mipmaps=0 -define dds:compression=none "$OUT/im-plain.dds"; convert-im6.q16 "$PHOTO" -resize 256x256! "$OUT/im-mips.dds"; convert-im6.q16 "$PIC" "$PIC" "$OUT/im-multi.pgm"; convert-im6.q16 "$PHOTO" -depth 16 "$OUT/im-16.ppm"; convert-im6.q16 "$PHOTO" -define tiff:tile-geometry=32x32 "$OUT/im-tiled.tiff"; convert-im6.q16 "$PHOTO" -define jpeg:restart-interval=2 "$OUT/im-restart.jpg"; convert-im6.q16 "$PHOTO" -compress LosslessJPEG "$OUT/im-lossless.jpg" 2>/dev/null
